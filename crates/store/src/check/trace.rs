//! From damage to images: which of them need what is damaged, directly or in a tree that they share.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::{Bad, Damage};
use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::graph::{self, Below, NodeRef};
use crate::hash::ObjectHash;
use crate::id::ImageId;
use crate::objects::Objects;

/// Positions in the list of damage.
type Findings = Rc<BTreeSet<usize>>;

/// Walks images, each shared tree once.
pub(super) struct Trace<'a> {
    objects: &'a Objects,
    /// Copies that are known to be damaged.
    bad: &'a Bad,
    damage: &'a mut Vec<Damage>,
    /// Damage of each object, by hash of the object, as far as it is known.
    of_object: HashMap<(ObjectHash, ObjectKind), Option<usize>>,
    /// Damage below each node.
    of_tree: HashMap<ObjectHash, Findings>,
    /// The finding that stands for all missing objects.
    missing: Option<usize>,
    touched: Vec<BTreeSet<ImageId>>,
}

impl<'a> Trace<'a> {
    pub(super) fn new(objects: &'a Objects, bad: &'a Bad, damage: &'a mut Vec<Damage>) -> Trace<'a> {
        let (of_object, of_tree) = (HashMap::new(), HashMap::new());
        Trace { objects, bad, damage, of_object, of_tree, missing: None, touched: Vec::new() }
    }

    /// Walks an image and notes what damage touches it.
    pub(super) fn image(&mut self, file: &ImageFile) -> Result<(), StoreError> {
        let mut findings = BTreeSet::new();
        for root in graph::roots(file) {
            findings.extend(self.tree(&file.id, root)?.iter());
        }
        for blob in graph::blobs(file) {
            findings.extend(self.object(&blob, ObjectKind::Blob)?);
        }
        for finding in findings {
            self.touch(finding, file.id.clone());
        }
        Ok(())
    }

    /// Notes an image whose own file is damaged.
    pub(super) fn unreadable(&mut self, image: ImageId, error: StoreError) -> Result<(), StoreError> {
        let finding = self.found(error)?;
        self.touch(finding, image);
        Ok(())
    }

    /// Gives each finding its images.
    pub(super) fn finish(self) {
        for (damage, images) in self.damage.iter_mut().zip(self.touched) {
            damage.images = images.into_iter().collect();
        }
    }

    fn touch(&mut self, finding: usize, image: ImageId) {
        if self.touched.len() <= finding {
            self.touched.resize_with(finding + 1, BTreeSet::new);
        }
        self.touched[finding].insert(image);
    }

    /// Returns the damage in a tree.
    fn tree(&mut self, image: &ImageId, at: NodeRef) -> Result<Findings, StoreError> {
        if let Some(known) = self.of_tree.get(&at.hash) {
            return Ok(Rc::clone(known));
        }
        let mut findings: BTreeSet<usize> = self.object(&at.hash, ObjectKind::Node)?.into_iter().collect();
        if findings.is_empty() {
            match graph::below(self.objects, image, at) {
                Ok(Below::Nodes(children)) => {
                    for child in children {
                        findings.extend(self.tree(image, child)?.iter());
                    }
                }
                Ok(Below::Groups(groups)) => {
                    for group in groups {
                        findings.extend(self.object(&group, ObjectKind::Group)?);
                    }
                }
                Err(error) => {
                    findings.insert(self.found(error)?);
                }
            }
        }
        let findings = Rc::new(findings);
        self.of_tree.insert(at.hash, Rc::clone(&findings));
        Ok(findings)
    }

    /// Returns the damage of one object; none where there is a copy that is not known to be damaged.
    fn object(&mut self, hash: &ObjectHash, kind: ObjectKind) -> Result<Option<usize>, StoreError> {
        if let Some(known) = self.of_object.get(&(*hash, kind)) {
            return Ok(*known);
        }
        let mut finding = None;
        let places = self.objects.places(hash, kind, |place, _| {
            finding = self.bad.get(&(place.pack, place.number)).copied();
            Ok(finding.is_none())
        });
        let finding = match places {
            Ok(()) => finding,
            Err(error @ StoreError::MissingObject { .. }) => Some(self.found_missing(error)?),
            Err(error) => return Err(error),
        };
        self.of_object.insert((*hash, kind), finding);
        Ok(finding)
    }

    fn found_missing(&mut self, error: StoreError) -> Result<usize, StoreError> {
        match self.missing {
            Some(finding) => {
                self.damage[finding].objects += 1;
                Ok(finding)
            }
            None => {
                let finding = self.found(error)?;
                self.missing = Some(finding);
                Ok(finding)
            }
        }
    }

    /// Notes damage; any other error ends the check.
    fn found(&mut self, error: StoreError) -> Result<usize, StoreError> {
        if !error.is_damage() {
            return Err(error);
        }
        self.damage.push(Damage { error, objects: 1, images: Vec::new() });
        Ok(self.damage.len() - 1)
    }
}
