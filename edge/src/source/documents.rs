//! One file's documents, remembered: a document whose text, place and patches are the same is not decoded again, and
//! an object whose text is broken keeps its last good version.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use edge_config::core::SecretContents;
use edge_config::inputs::Object;
use edge_config::manifest::{AnyObject, Item, Outcome, Patch, Place, decode_document};
use edge_config::names::ObjectRef;
use edge_config::problem::{Origin, Problem, Severity};
use edge_config::yaml::split;
use foldhash::{HashMap, HashMapExt as _};

use super::secret::{self, KeyMaterial, Material, PasswordText, Texts};

/// An object that can serve, with its private key where it has one.
#[derive(Debug, Clone)]
pub struct Served {
    pub object: AnyObject,
    pub key: Option<Arc<KeyMaterial>>,
    pub password: Option<Arc<PasswordText>>,
    /// The values of a Secret that has no certificate and no password, of files only.
    pub texts: Option<Arc<Texts>>,
}

/// What a document, or one object of it, came to.
#[derive(Debug, Clone)]
struct Decoded {
    identity: Option<ObjectRef>,
    state: State,
    problems: Vec<Problem>,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum State {
    Good(Served),
    Broken,
    /// Broken, and what it was to protect is closed where it was never good.
    Closed(Served),
    Foreign,
}

#[derive(Debug)]
struct Document {
    fingerprint: u64,
    line_offset: u32,
    /// Of the patches that its objects were decoded with.
    patches: u64,
    items: Vec<Decoded>,
}

/// The patches of each target, and their fingerprint.
pub(super) type PatchesByTarget = BTreeMap<ObjectRef, u64>;

/// The documents of one file.
#[derive(Debug, Default)]
pub(super) struct Documents {
    documents: Vec<Document>,
    /// The last version of each object that could serve.
    good: HashMap<ObjectRef, Served>,
    /// Objects that serve in an older version, or not at all, with the reason.
    pub(super) problems: Vec<Problem>,
    pub(super) serving: Vec<Served>,
    pub(super) unusable: Vec<(ObjectRef, String)>,
}

/// Where a text stands and how it is decoded.
pub(super) struct Reading<'a> {
    pub(super) place: Place,
    pub(super) namespace: &'a Arc<str>,
    pub(super) patches: &'a [Patch<'a>],
    pub(super) patched: &'a PatchesByTarget,
}

/// A fast fingerprint of a text, the same in every run.
pub(super) fn fingerprint(text: &str) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    text.hash(&mut hasher);
    text.len().hash(&mut hasher);
    hasher.finish()
}

/// The documents of the version before, to be found again by their text.
struct Before {
    documents: Vec<Option<Document>>,
    /// The place after the one found last: most documents follow each other as they did.
    next: usize,
    /// Places by fingerprint, the first one last; made when a document is not where it is expected.
    places: Option<HashMap<u64, Vec<usize>>>,
}

impl Before {
    fn new(documents: Vec<Document>) -> Self {
        Self { documents: documents.into_iter().map(Some).collect(), next: 0, places: None }
    }

    fn take(&mut self, fingerprint: u64) -> Option<Document> {
        let is_it = |document: &Option<Document>| document.as_ref().is_some_and(|one| one.fingerprint == fingerprint);
        let place = if self.documents.get(self.next).is_some_and(is_it) {
            self.next
        } else {
            let documents = &self.documents;
            let places = self.places.get_or_insert_with(|| {
                let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
                for (place, document) in documents.iter().enumerate().rev() {
                    if let Some(document) = document {
                        places.entry(document.fingerprint).or_default().push(place);
                    }
                }
                places
            });
            let same = places.get_mut(&fingerprint)?;
            loop {
                let place = same.pop()?;
                // It may have been taken where it was expected.
                if documents.get(place).is_some_and(is_it) {
                    break place;
                }
            }
        };
        self.next = place + 1;
        self.documents.get_mut(place)?.take()
    }
}

impl Documents {
    /// Whether the patches changed for any object of the file.
    pub(super) fn wants_other_patches(&self, patched: &PatchesByTarget) -> bool {
        self.documents.iter().any(|document| document.patches != patches_of(&document.items, patched))
    }

    /// Takes the file's text as it is now.
    pub(super) fn update(&mut self, text: &str, reading: &Reading<'_>) {
        let found = split(text);
        let mut before = Before::new(std::mem::take(&mut self.documents));
        self.documents.reserve_exact(found.len());
        for found in found {
            let fingerprint = fingerprint(found.text);
            let line_offset = reading.place.line_offset.saturating_add(found.line_offset);
            let document = match before.take(fingerprint) {
                Some(mut document) if document.patches == patches_of(&document.items, reading.patched) => {
                    document.move_to(line_offset, reading);
                    document
                }
                _ => {
                    let place = Place { file: reading.place.file.clone(), line_offset };
                    let items: Vec<Decoded> = decode(found.text, &place, reading).into_iter().map(judge).collect();
                    let patches = patches_of(&items, reading.patched);
                    Document { fingerprint, line_offset, patches, items }
                }
            };
            self.documents.push(document);
        }
        self.settle();
    }

    /// Decides what serves: the new version where there is one, else the last good one.
    fn settle(&mut self) {
        self.problems.clear();
        self.serving.clear();
        self.unusable.clear();
        let mut before = std::mem::take(&mut self.good);
        let mut has_lost_document = false;
        let mut nameless: Vec<&Served> = Vec::new();
        for item in self.documents.iter().flat_map(|document| &document.items) {
            let first = self.problems.len();
            self.problems.extend(item.problems.iter().cloned());
            match (&item.state, &item.identity) {
                (State::Foreign, _) => {}
                (state @ (State::Good(_) | State::Closed(_) | State::Broken), Some(identity)) => {
                    match choose(state, before.remove(identity), &mut self.problems[first..]) {
                        Ok(served) => {
                            // A second one of the same name is an error of the whole source, told there.
                            self.good.entry(identity.clone()).or_insert_with(|| served.clone());
                            self.serving.push(served);
                        }
                        Err(reason) => self.unusable.push((identity.clone(), reason)),
                    }
                }
                (State::Broken | State::Good(_), None) => has_lost_document = true,
                (State::Closed(served), None) => {
                    has_lost_document = true;
                    nameless.push(served);
                }
            }
        }
        // One of its kind that was good and is not found any more may be the one without a name.
        nameless.retain(|closed| {
            let is_it = |last: &Served| last.object.kind() == closed.object.kind() && !is_closed(last);
            !before.values().any(is_it)
        });
        self.serving.extend(nameless.into_iter().cloned());
        if has_lost_document {
            // The broken text may have been any of the objects that are not found any more.
            let mut lost: Vec<(ObjectRef, Served)> = before.drain().filter(|(_, last)| !is_closed(last)).collect();
            lost.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (identity, last) in lost {
                self.problems.push(Problem {
                    severity: Severity::Warning,
                    origin: Some(last.object.meta().origin.clone()),
                    object: Some(identity.clone()),
                    message: "is not found beside a broken document of its file; the last good version keeps serving"
                        .to_owned(),
                });
                self.good.insert(identity, last.clone());
                self.serving.push(last);
            }
        }
    }
}

/// What serves for an object: the version that is there now, or the last good one; else why neither can.
fn choose(state: &State, last: Option<Served>, problems: &mut [Problem]) -> Result<Served, String> {
    match (state, last.filter(|last| !is_closed(last))) {
        (State::Good(served), Some(last)) if lost_certificate(&last, served) => {
            keep(problems);
            Ok(last)
        }
        (State::Good(served), _) => Ok(served.clone()),
        (State::Broken | State::Closed(_) | State::Foreign, Some(last)) => {
            keep(problems);
            Ok(last)
        }
        (State::Closed(served), None) => {
            amend(problems, "; what it is about is closed until it can be read");
            Ok(served.clone())
        }
        (State::Broken | State::Foreign, None) => {
            let reason = problems.iter().find(|problem| problem.severity == Severity::Error);
            Err(reason.map_or_else(|| "is broken".to_owned(), |problem| problem.message.clone()))
        }
    }
}

/// One object of a source that has no documents, judged as those of files are.
#[derive(Debug)]
pub struct Settled {
    /// What serves, or why nothing does.
    pub served: Result<Served, String>,
    /// What serves is what served before, for this reason: the new version is of no use.
    pub outdated: Option<String>,
    pub problems: Vec<Problem>,
}

/// Decides what serves for an object that came by itself; `last` is what served before.
pub fn settle(item: Item, last: Option<Served>) -> Settled {
    let Decoded { state, mut problems, .. } = judge(item);
    let is_good = matches!(&state, State::Good(now) if last.as_ref().is_none_or(|last| !lost_certificate(last, now)));
    let first = problems.iter().find(|problem| problem.severity == Severity::Error);
    let reason = first.map_or_else(|| "is broken".to_owned(), |problem| problem.message.clone());
    let served = choose(&state, last, &mut problems);
    let is_outdated = !is_good && served.as_ref().is_ok_and(|served| !is_closed(served));
    let outdated = is_outdated.then_some(reason);
    Settled { served, outdated, problems }
}

fn keep(problems: &mut [Problem]) {
    amend(problems, "; the last good version keeps serving");
}

fn amend(problems: &mut [Problem], what: &str) {
    for problem in problems.iter_mut().filter(|problem| problem.severity == Severity::Error) {
        problem.message.push_str(what);
    }
}

/// Whether it only stands for a policy that cannot be read.
fn is_closed(served: &Served) -> bool {
    served.object.unreadable().is_some()
}

/// Whether a Secret that had a certificate is there without one.
fn lost_certificate(last: &Served, now: &Served) -> bool {
    let AnyObject::Secret(secret) = &now.object else { return false };
    last.key.is_some() && matches!(secret.spec.contents, SecretContents::Tls { certificate: Err(_), .. })
}

fn patches_of(items: &[Decoded], patched: &PatchesByTarget) -> u64 {
    if patched.is_empty() {
        return 0;
    }
    let fingerprints =
        items.iter().filter_map(|item| item.identity.as_ref()).filter_map(|identity| patched.get(identity));
    fingerprints.fold(0, |all: u64, one| all.rotate_left(7) ^ *one)
}

impl Document {
    fn move_to(&mut self, line_offset: u32, reading: &Reading<'_>) {
        let lines = i64::from(line_offset) - i64::from(self.line_offset);
        if lines == 0 {
            return;
        }
        self.line_offset = line_offset;
        for item in &mut self.items {
            let moved = |origin: &mut Origin| {
                if origin.file == reading.place.file {
                    origin.line = u32::try_from(i64::from(origin.line) + lines).unwrap_or(1);
                }
            };
            moved(&mut item.origin);
            item.problems.iter_mut().filter_map(|problem| problem.origin.as_mut()).for_each(moved);
            if let State::Good(served) | State::Closed(served) = &mut item.state {
                served.object.moved_to(item.origin.clone());
            }
        }
    }
}

/// A fault in the parser itself costs the document that found it.
fn decode(text: &str, place: &Place, reading: &Reading<'_>) -> Vec<Item> {
    let attempt = || decode_document(text, place, reading.namespace, reading.patches);
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        let origin = place.origin(edge_config::yaml::Mark::START);
        let problem = Problem {
            severity: Severity::Error,
            origin: Some(origin.clone()),
            object: None,
            message: "cannot be read: a fault in Edge's own parser, please report it with this document".to_owned(),
        };
        vec![Item { origin, identity: None, outcome: Outcome::Broken, password: None, problems: vec![problem] }]
    })
}

/// Reads the certificates of Secrets and ConfigMaps.
fn judge(item: Item) -> Decoded {
    let Item { origin, identity, outcome, password, mut problems } = item;
    let state = match outcome {
        Outcome::Ready(object) => {
            let password = password.map(|text| Arc::new(PasswordText::new(text.0)));
            State::Good(Served { object, key: None, password, texts: None })
        }
        Outcome::Secret(raw) => {
            let Object { meta, spec } = *raw;
            let (spec, Material { key, password, texts }) = secret::read(spec);
            let bundle = spec.ca().and_then(|bundle| bundle.0.as_ref().err());
            let certificate = match &spec.contents {
                SecretContents::Tls { certificate, .. } => certificate.as_ref().err(),
                _ => None,
            };
            for reason in certificate.into_iter().chain(bundle) {
                problems.push(fault_of(&identity, &origin, reason));
            }
            State::Good(Served { object: AnyObject::Secret(Arc::new(Object { meta, spec })), key, password, texts })
        }
        Outcome::ConfigMap(raw) => {
            let Object { meta, spec } = *raw;
            let spec = secret::read_config_map(&spec);
            if let Some(reason) = spec.ca.as_ref().and_then(|bundle| bundle.0.as_ref().err()) {
                problems.push(fault_of(&identity, &origin, reason));
            }
            let object = AnyObject::ConfigMap(Arc::new(Object { meta, spec }));
            State::Good(Served { object, key: None, password: None, texts: None })
        }
        Outcome::Broken => State::Broken,
        Outcome::Closed(object) => State::Closed(Served { object, key: None, password: None, texts: None }),
        Outcome::Foreign => State::Foreign,
    };
    Decoded { identity, state, problems, origin }
}

fn fault_of(identity: &Option<ObjectRef>, origin: &Origin, reason: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        origin: Some(origin.clone()),
        object: identity.clone(),
        message: reason.to_owned(),
    }
}
