//! The arrows between the top-level modules of one crate, read from the tokens of its files.
//!
//! An arrow is a path `crate::module` in shipped code, or `super::module` where that means the same, also within a
//! group (`use crate::{a, b::C}`) or a macro. What is built for tests only is left out, with the files it declares.
//! Items of the crate's root, such as its re-exports, are no modules: whoever names them hides an arrow, which is why
//! `lib.rs` should only be named from outside.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What one crate is made of.
#[derive(Debug, Default)]
pub(super) struct Arrows {
    /// Its top-level modules.
    pub(super) modules: BTreeSet<String>,
    /// Each arrow (from, to) between two of them, with the files that it is in.
    pub(super) between: BTreeMap<(String, String), BTreeSet<String>>,
}

/// A path that was found: the first name behind the crate's root.
type Target = String;

impl Arrows {
    /// Reads `files`, by their paths from the crate's `src`.
    pub(super) fn of(files: &BTreeMap<&str, &str>) -> Self {
        let read: Vec<(&str, Vec<String>, File)> =
            files.iter().map(|(path, text)| (*path, module_of(path), File::read(path, text))).collect();
        let tests: BTreeSet<Vec<String>> =
            read.iter().flat_map(|(.., file)| file.test_modules.clone()).collect();
        let is_test = |module: &[String]| (1..=module.len()).any(|depth| tests.contains(&module[..depth]));
        let shipped: Vec<_> =
            read.iter().filter(|(_, module, _)| !module.is_empty() && !is_test(module)).collect();
        let modules: BTreeSet<String> = shipped.iter().map(|(_, module, _)| module[0].clone()).collect();
        let mut between: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (path, module, file) in shipped {
            for target in
                file.targets.iter().filter(|target| modules.contains(*target) && **target != module[0])
            {
                between.entry((module[0].clone(), target.clone())).or_default().insert((*path).to_owned());
            }
        }
        Self { modules, between }
    }
}

/// The module that the file at `path` is; the crate's root has no name.
fn module_of(path: &str) -> Vec<String> {
    let mut names: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|last| last == "mod")
        || matches!(names.as_slice(), [only] if only == "lib" || only == "main")
    {
        names.pop();
    }
    names
}

/// What one file names and declares.
#[derive(Default)]
struct File {
    targets: BTreeSet<Target>,
    /// Modules built for tests only, by their names from the root.
    test_modules: Vec<Vec<String>>,
}

impl File {
    fn read(path: &str, text: &str) -> Self {
        let mut file = Self::default();
        // What can't be read the compiler refuses, before anybody looks for knots.
        if let Ok(tokens) = text.parse::<TokenStream>() {
            file.walk(&tokens.into_iter().collect::<Vec<_>>(), &module_of(path));
        }
        file
    }

    /// Goes through what is written in `module`.
    fn walk(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while at < tokens.len() {
            if is_test_only(&tokens[at..]) {
                at += self.skip_item(&tokens[at..], module);
            } else if let Some(rest) = root_path(&tokens[at..], module.len()) {
                self.name(rest);
                at = tokens.len() - rest.len();
            } else if let [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..] =
                &tokens[at..]
                && word == "mod"
            {
                self.walk(&trees(body.stream()), &[module, &[name.to_string()]].concat());
                at += 3;
            } else {
                if let TokenTree::Group(group) = &tokens[at] {
                    self.walk(&trees(group.stream()), module);
                }
                at += 1;
            }
        }
    }

    /// Notes what follows `crate::`: one name, or a group of paths.
    fn name(&mut self, rest: &[TokenTree]) {
        match rest {
            [TokenTree::Ident(name), ..] => {
                self.targets.insert(name.to_string());
            }
            [TokenTree::Group(group), ..] => {
                let paths = trees(group.stream());
                let firsts = paths.split(|token| is_punct(token, ',')).filter_map(|path| path.first());
                self.targets.extend(firsts.map(ToString::to_string));
            }
            _ => {}
        }
    }

    /// The length of the item that begins with an attribute for tests; a module that it declares is remembered.
    fn skip_item(&mut self, tokens: &[TokenTree], module: &[String]) -> usize {
        let words: Vec<String> = tokens
            .iter()
            .filter_map(
                |token| if let TokenTree::Ident(word) = token { Some(word.to_string()) } else { None },
            )
            .take(8)
            .collect();
        let first = words.iter().position(|word| word != "pub").unwrap_or(0);
        if let [word, name, ..] = &words[first.min(words.len())..]
            && word == "mod"
        {
            self.test_modules.push([module, std::slice::from_ref(name)].concat());
        }
        let has_body =
            !matches!(words.get(first).map(String::as_str), Some("use" | "static" | "type" | "let"));
        let ends = |token: &TokenTree| {
            is_punct(token, ';')
                || (has_body
                    && matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace))
        };
        tokens.iter().position(ends).map_or(tokens.len(), |last| last + 1)
    }
}

fn trees(stream: TokenStream) -> Vec<TokenTree> {
    stream.into_iter().collect()
}

/// Whether `tokens` begin with `#[cfg(test)]`, alone or among other conditions.
fn is_test_only(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    let text = attribute.stream().to_string();
    let mut words =
        text.split(|symbol: char| !symbol.is_alphanumeric() && symbol != '_').filter(|word| !word.is_empty());
    is_punct(hash, '#')
        && words.next() == Some("cfg")
        && words.clone().any(|word| word == "test")
        && words.all(|word| word != "not")
}

/// What follows a path to the crate's root, `crate::` or as many `super::` as the module is deep.
fn root_path(tokens: &[TokenTree], depth: usize) -> Option<&[TokenTree]> {
    if let Some(rest) = step(tokens, "crate") {
        return Some(rest);
    }
    let mut rest = tokens;
    let mut steps = 0;
    while let Some(after) = step(rest, "super") {
        rest = after;
        steps += 1;
    }
    (steps > 0 && steps == depth).then_some(rest)
}

/// What follows `word::`.
fn step<'a>(tokens: &'a [TokenTree], word: &str) -> Option<&'a [TokenTree]> {
    match tokens {
        [TokenTree::Ident(first), colon, another, rest @ ..]
            if first == word && is_punct(colon, ':') && is_punct(another, ':') =>
        {
            Some(rest)
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, symbol: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let found = Arrows::of(&files.iter().copied().collect());
        found.between.keys().map(|(from, to)| format!("{from} {to}")).collect()
    }

    /// Guards against an arrow that is written in another way than the rule looks for.
    #[test]
    fn every_way_of_writing_a_path_counts() {
        let others = [("b.rs", ""), ("c/mod.rs", ""), ("d.rs", "")];
        let found = |path: &str, text: &str| arrows(&[&others[..], &[("lib.rs", ""), (path, text)]].concat());
        assert_eq!(found("a.rs", "use crate::{b, c::{d, X}, Root};"), ["a b", "a c"], "d is within c");
        assert_eq!(found("a.rs", "fn f(x: &super::b::B) -> crate::c::C { x }"), ["a b", "a c"]);
        assert_eq!(found("a/mod.rs", "use super::{b::B, d};"), ["a b", "a d"]);
        assert_eq!(found("a/deep.rs", "use super::b; use super::super::d::D;"), ["a d"]);
        assert_eq!(found("a.rs", "mod inner { use super::b; use super::super::c; }"), ["a c"]);
        assert_eq!(
            found("a.rs", "fn f() { vec![crate::b::B, format!(\"{}\", super::c::C)]; }"),
            ["a b", "a c"]
        );
        assert_eq!(found("lib.rs", "use crate::b;"), [] as [String; 0], "the root is no module");
    }

    /// Guards against what is not shipped, and words about code, tying modules.
    #[test]
    fn tests_comments_and_text_do_not_count() {
        let text = "//! crate::b\n/// [`crate::b::B`]\n/* crate::b */\nconst T: &str = \"crate::b\";\n\
                    #[cfg(test)]\nuse crate::{b::B, b};\n\
                    #[cfg(test)]\n#[allow(dead_code)]\npub(crate) fn f() -> B { crate::b::B }\n\
                    #[cfg(test)]\nmod proofs;\n\
                    #[cfg(test)]\nmod tests { use crate::b::B; }\n\
                    #[cfg(not(test))]\nuse crate::c::C;\n";
        let files = [
            ("a/mod.rs", text),
            ("a/proofs.rs", "use crate::b::B;"),
            ("b.rs", ""),
            ("c.rs", ""),
            ("lib.rs", "mod a; mod b; mod c; #[cfg(test)] mod testing;"),
            ("testing.rs", "use crate::b;"),
        ];
        assert_eq!(arrows(&files), ["a c"]);
        let modules = Arrows::of(&files.into_iter().collect()).modules;
        assert_eq!(modules, BTreeSet::from(["a", "b", "c"].map(String::from)));
    }
}
