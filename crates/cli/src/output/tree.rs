//! Draws a forest with lines: each node below its parent, in the order given.

/// A node to draw.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Unique among the nodes drawn together.
    pub(crate) id: String,
    /// The node above it; one that is not among the nodes makes this a root.
    pub(crate) parent: Option<String>,
    /// What is written.
    pub(crate) label: String,
}

/// Draws all nodes. Those in a ring of parents, which no sound data has, are drawn as roots.
pub(crate) fn tree(nodes: &[Node]) -> String {
    let known = |id: &str| nodes.iter().any(|node| node.id == id);
    let is_root = |node: &&Node| node.parent.as_deref().is_none_or(|parent| !known(parent));
    let mut drawing = Drawing { nodes, drawn: vec![false; nodes.len()], lines: Vec::new() };
    for root in nodes.iter().filter(is_root) {
        drawing.draw(root, "", "", "");
    }
    for (index, node) in nodes.iter().enumerate() {
        if !drawing.drawn[index] {
            drawing.draw(node, "", "", "");
        }
    }
    drawing.lines.join("\n")
}

struct Drawing<'a> {
    nodes: &'a [Node],
    drawn: Vec<bool>,
    lines: Vec<String>,
}

impl Drawing<'_> {
    /// Draws a node behind `indent` and `branch`; its children stand behind `indent` and `below`.
    fn draw(&mut self, node: &Node, indent: &str, branch: &str, below: &str) {
        let Some(index) = self.nodes.iter().position(|other| other.id == node.id) else { return };
        if std::mem::replace(&mut self.drawn[index], true) {
            return;
        }
        self.lines.push(format!("{indent}{branch}{}", node.label).trim_end().to_owned());
        let indent = format!("{indent}{below}");
        let nodes = self.nodes;
        let children: Vec<&Node> =
            nodes.iter().filter(|child| child.parent.as_deref() == Some(node.id.as_str())).collect();
        for (number, child) in children.iter().enumerate() {
            let last = number + 1 == children.len();
            self.draw(child, &indent, if last { "└─ " } else { "├─ " }, if last { "   " } else { "│  " });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, parent: Option<&str>) -> Node {
        Node { id: id.into(), parent: parent.map(str::to_owned), label: id.to_uppercase() }
    }

    #[test]
    fn branches() {
        let nodes = [
            node("a", None),
            node("b", Some("a")),
            node("c", Some("b")),
            node("d", Some("a")),
            node("now", Some("d")),
            node("lost", Some("gone")),
        ];
        assert_eq!(tree(&nodes), "A\n├─ B\n│  └─ C\n└─ D\n   └─ NOW\nLOST");
    }

    /// Damaged parents must not make the command run forever, nor hide a snapshot.
    #[test]
    fn rings_end() {
        assert_eq!(tree(&[node("a", Some("b")), node("b", Some("a"))]), "A\n└─ B");
    }
}
