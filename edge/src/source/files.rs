//! `edge.toml`, directories of manifests, patches and PEM files. Everything is looked at on every load, but only what
//! changed is read and decoded; what cannot be read keeps the version that was read last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_config::core::{Secret, SecretContents};
use edge_config::edge_toml;
use edge_config::inputs::{Inputs, Meta, Object};
use edge_config::manifest::{AnyObject, Patch, Place};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::problem::{Origin, Problem, Severity};
use edge_config::settings::{ManifestSource, PatchSource, SecretSource, Settings, TextSource};
use edge_config::substitute::substitute;
use edge_config::yaml;
use foldhash::{HashMap, HashSet, HashSetExt as _};
use zeroize::Zeroizing;

use super::documents::{Documents, PatchesByTarget, Reading, Served, fingerprint};
use super::listing::{self, Listing, Stamp};
use super::secret::{self, Keys};

/// What the files say now.
#[derive(Debug)]
pub struct Loaded {
    pub inputs: Inputs,
    /// Of the Secrets in `inputs` that can be served.
    pub keys: Keys,
    /// In the order of files and lines.
    pub problems: Vec<Problem>,
    pub settings: Arc<Settings>,
    /// The part of `edge.toml` that `settings` were decoded from which says what is served (see [`edge_toml::portion`]).
    pub portion: Arc<str>,
    /// Whether `edge.toml` was read without a fault; otherwise `settings` are the last good ones, or the defaults.
    pub settings_are_sound: bool,
    /// Every directory that was looked into, and the files outside of them: what a watcher has to watch.
    pub watched: Vec<PathBuf>,
}

/// What was read before. Dropping it forgets every last good version.
#[derive(Debug, Default)]
pub struct Cache {
    settings: Option<Arc<Settings>>,
    /// Of the text that `settings` were decoded from.
    settings_text: Option<u64>,
    portion: Arc<str>,
    files: HashMap<PathBuf, KnownFile>,
    /// The files of each tree when it could last be listed.
    listings: HashMap<PathBuf, Vec<PathBuf>>,
    patches: HashMap<PathBuf, KnownText>,
    pairs: HashMap<ObjectRef, KnownPair>,
}

#[derive(Debug)]
struct KnownFile {
    stamp: Option<Stamp>,
    /// Of the settings that the text was decoded with.
    terms: u64,
    /// Of the text and the line that it begins on.
    text: Option<u64>,
    documents: Documents,
}

#[derive(Debug)]
struct KnownText {
    stamp: Stamp,
    text: Arc<str>,
    /// The last text that was YAML at all.
    good: Option<Arc<str>>,
}

#[derive(Debug)]
struct KnownPair {
    source: SecretSource,
    stamps: (Stamp, Stamp),
    served: Served,
    problems: Vec<Problem>,
}

/// Reads `edge.toml` and everything it names.
pub fn load(config: &Path, cache: &mut Cache) -> Loaded {
    let mut problems = Vec::new();
    let name: Arc<str> = config.display().to_string().into();
    let base = config.parent().unwrap_or(Path::new(""));
    let mut settings_text = None;
    let mut portion = Arc::clone(&cache.portion);
    let decoded = match listing::read(config).and_then(|(bytes, _)| text(bytes)) {
        Ok(text) => {
            settings_text = Some(fingerprint(&text));
            if cache.settings_text != settings_text {
                portion = edge_toml::portion(&text).into();
            }
            match cache.settings.as_ref().filter(|_| cache.settings_text == settings_text) {
                Some(known) => Ok(Arc::clone(known)),
                None => edge_toml::decode(&name, &text)
                    .map(|settings| Arc::new(settings.anchored(base).on_host(&host_name()))),
            }
        }
        Err(reason) => Err(vec![path_problem(config, &reason)]),
    };
    let (settings, settings_are_sound) = match decoded {
        Ok(settings) => (settings, true),
        Err(found) => {
            problems.extend(found);
            (cache.settings.clone().unwrap_or_default(), false)
        }
    };
    if settings_are_sound {
        cache.settings = Some(settings.clone());
        cache.settings_text = settings_text;
        cache.portion = portion;
    }
    let mut load = Load { base, name, cache, settings: &settings, problems, watched: Vec::new() };
    load.watched.push(config.to_owned());
    load.run(settings_are_sound)
}

/// Reads a directory, or one file, of manifests without any `edge.toml`.
pub fn load_directory(path: &Path, cache: &mut Cache) -> Loaded {
    let manifest = ManifestSource {
        source: TextSource::Path(path.to_owned()),
        exclude: Vec::new(),
        namespace: "default".to_owned(),
    };
    let settings = Arc::new(Settings { manifests: vec![manifest], ..Settings::default() }.on_host(&host_name()));
    let name: Arc<str> = path.display().to_string().into();
    let load =
        Load { base: Path::new(""), name, cache, settings: &settings, problems: Vec::new(), watched: Vec::new() };
    load.run(true)
}

/// What this machine is called; empty where it does not say.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|fault| {
        let line =
            1 + fault.as_bytes()[..fault.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("is not UTF-8 text, first on line {line}")
    })
}

/// Whether a directory that is there does not have the file any more. Without its directory, it is only out of sight.
fn is_gone(path: &Path) -> bool {
    path.parent().is_some_and(Path::is_dir)
        && std::fs::symlink_metadata(path).is_err_and(|fault| fault.kind() == std::io::ErrorKind::NotFound)
}

/// What nobody has seen may have been to protect something, and nobody knows what.
const UNKNOWN: &str = "; nothing in it is in effect, and a policy in it protects nothing";

fn path_problem(path: &Path, reason: &str) -> Problem {
    Problem { severity: Severity::Error, origin: None, object: None, message: format!("{} {reason}", path.display()) }
}

struct Load<'a> {
    base: &'a Path,
    /// Of `edge.toml`, for problems.
    name: Arc<str>,
    cache: &'a mut Cache,
    settings: &'a Arc<Settings>,
    problems: Vec<Problem>,
    watched: Vec<PathBuf>,
}

/// The text of one patch and where it comes from.
struct PatchText<'a> {
    source: &'a PatchSource,
    text: Arc<str>,
    place: Place,
}

impl Load<'_> {
    fn run(mut self, settings_are_sound: bool) -> Loaded {
        let settings = self.settings.clone();
        let patch_texts = self.patches(&settings.patches);
        let patches: Vec<Patch<'_>> = patch_texts
            .iter()
            .map(|patch| Patch {
                target: &patch.source.target,
                format: patch.source.format,
                text: &patch.text,
                place: patch.place.clone(),
            })
            .collect();
        let patched = by_target(&patch_texts);
        let mut inputs = Inputs { settings: settings.clone(), ..Inputs::default() };
        let mut all: Vec<Served> = Vec::new();
        let mut used = HashSet::new();
        for (index, manifest) in settings.manifests.iter().enumerate() {
            for path in self.update(index, manifest, &patches, &patched) {
                if !used.insert(path.clone()) {
                    continue;
                }
                let Some(file) = self.cache.files.get(&path) else { continue };
                self.problems.extend(file.documents.problems.iter().cloned());
                all.extend_from_slice(&file.documents.serving);
                for (object, reason) in &file.documents.unusable {
                    inputs.unusable.entry(object.clone()).or_insert_with(|| reason.clone());
                }
            }
        }
        for source in &settings.secrets {
            all.extend(self.pair(source));
        }
        let keys = merge(all, &mut inputs, &mut self.problems);
        // What one file breaks, another may still define.
        let mut unusable = std::mem::take(&mut inputs.unusable);
        unusable.retain(|object, _| inputs.meta(object).is_none());
        inputs.unusable = unusable;
        self.check_targets(&settings.patches, &inputs);
        if settings_are_sound {
            self.cache.files.retain(|path, _| used.contains(path));
            let names: HashSet<ObjectRef> = settings.secrets.iter().map(secret_ref).collect();
            self.cache.pairs.retain(|object, _| names.contains(object));
        }
        self.problems.sort_by(|a, b| (&a.origin, a.severity, &a.message).cmp(&(&b.origin, b.severity, &b.message)));
        self.problems.dedup();
        self.watched.sort();
        self.watched.dedup();
        let portion = Arc::clone(&self.cache.portion);
        Loaded { inputs, keys, problems: self.problems, settings, portion, settings_are_sound, watched: self.watched }
    }

    /// Lists a path; what cannot be looked into keeps the files it had.
    fn list(&mut self, path: &Path, exclude: &[String]) -> Vec<PathBuf> {
        let Listing { mut files, directories, unreadable } = listing::list(path, exclude);
        self.watched.push(path.to_owned());
        self.watched.extend(directories);
        let before = self.cache.listings.get(path);
        for (place, reason) in &unreadable {
            let kept: Vec<PathBuf> =
                before.into_iter().flatten().filter(|file| file.starts_with(place)).cloned().collect();
            let is_unknown = kept.is_empty();
            let tail = if is_unknown { UNKNOWN } else { "; what was read from it before keeps serving" };
            self.problems.push(path_problem(place, &format!("{reason}{tail}")));
            files.extend(kept);
        }
        if !unreadable.is_empty() {
            files.sort();
            files.dedup();
        }
        self.cache.listings.insert(path.to_owned(), files.clone());
        files
    }

    /// Brings the documents of one `[[manifests]]` up to date and tells their files, in order.
    fn update(
        &mut self,
        index: usize,
        manifest: &ManifestSource,
        patches: &[Patch<'_>],
        patched: &PatchesByTarget,
    ) -> Vec<PathBuf> {
        let terms = self.terms(&manifest.namespace);
        let settings = self.settings.clone();
        let namespace: Arc<str> = manifest.namespace.as_str().into();
        let reading = |place: Place| Reading { place, namespace: &namespace, patches, patched };
        let path = match &manifest.source {
            TextSource::Path(path) => self.base.join(path),
            TextSource::Inline { text, line } => {
                // No file has such a name.
                let key = PathBuf::from(format!("{}\0{index}", self.name));
                let file = self.cache.files.entry(key.clone()).or_insert_with(KnownFile::new);
                file.decode_with(terms);
                let place = Place { file: self.name.clone(), line_offset: line.saturating_sub(1) };
                file.update(text, &settings.substitute, &reading(place));
                return vec![key];
            }
        };
        let root = path;
        let mut files = self.list(&root, &manifest.exclude);
        let mut gone = HashSet::new();
        for path in &files {
            let file = self.cache.files.entry(path.clone()).or_insert_with(KnownFile::new);
            let is_known = file.terms == terms
                && !file.documents.wants_other_patches(patched)
                && file.stamp.as_ref().is_some_and(|stamp| Stamp::of(path).is_ok_and(|now| stamp.still_holds(&now)));
            if is_known {
                continue;
            }
            match listing::read(path).and_then(|(bytes, stamp)| Ok((text(bytes)?, stamp))) {
                Ok((text, stamp)) => {
                    file.decode_with(terms);
                    file.stamp = Some(stamp);
                    let place = Place { file: path.display().to_string().into(), line_offset: 0 };
                    file.update(&text, &settings.substitute, &reading(place));
                }
                // Removed since it was listed: that is no fault.
                Err(_) if *path != root && is_gone(path) => {
                    gone.insert(path.clone());
                }
                Err(reason) => {
                    let is_unknown = file.documents.serving.is_empty();
                    let tail = if is_unknown { UNKNOWN } else { "; the last good version keeps serving" };
                    file.stamp = None;
                    self.problems.push(path_problem(path, &format!("{reason}{tail}")));
                }
            }
        }
        if !gone.is_empty() {
            files.retain(|path| !gone.contains(path));
        }
        files
    }

    fn terms(&self, namespace: &str) -> u64 {
        let mut text = namespace.to_owned();
        for (from, to) in &self.settings.substitute {
            let _ = write!(text, "\0{from}\0{to}");
        }
        fingerprint(&text)
    }

    /// The texts of all patches, in the order in which they apply.
    fn patches<'s>(&mut self, sources: &'s [PatchSource]) -> Vec<PatchText<'s>> {
        let settings = self.settings.clone();
        let mut texts = Vec::new();
        for source in sources {
            match &source.source {
                TextSource::Inline { text, line } => texts.push(PatchText {
                    source,
                    text: substitute(text, &settings.substitute).into_owned().into(),
                    place: Place { file: self.name.clone(), line_offset: line.saturating_sub(1) },
                }),
                TextSource::Path(path) => {
                    for path in self.list(&self.base.join(path), &[]) {
                        let Some(text) = self.patch_text(&path) else { continue };
                        let text = substitute(&text, &settings.substitute).into_owned().into();
                        let place = Place { file: path.display().to_string().into(), line_offset: 0 };
                        texts.push(PatchText { source, text, place });
                    }
                }
            }
        }
        texts
    }

    fn patch_text(&mut self, path: &Path) -> Option<Arc<str>> {
        let known = self.cache.patches.get(path);
        let now = Stamp::of(path);
        let is_same = known.is_some_and(|known| now.is_ok_and(|now| known.stamp.still_holds(&now)));
        if !is_same {
            match listing::read(path).and_then(|(bytes, stamp)| Ok((text(bytes)?, stamp))) {
                Ok((text, stamp)) => {
                    let text: Arc<str> = text.into();
                    let before = self.cache.patches.remove(path).and_then(|known| known.good);
                    let good = if yaml::parse(&text).is_ok() { Some(text.clone()) } else { before };
                    self.cache.patches.insert(path.to_owned(), KnownText { stamp, text, good });
                }
                Err(reason) => {
                    let good = self.cache.patches.get(path).and_then(|known| known.good.clone());
                    let tail = if good.is_some() { "; the last good version keeps serving" } else { "" };
                    self.problems.push(path_problem(path, &format!("{reason}{tail}")));
                    return good;
                }
            }
        }
        let known = self.cache.patches.get(path)?;
        match &known.good {
            // The patch is broken and was not before: the object keeps it as it was.
            Some(good) if !Arc::ptr_eq(good, &known.text) => {
                if let Err(fault) = yaml::parse(&known.text) {
                    let file = path.display().to_string().into();
                    self.problems.push(Problem {
                        severity: Severity::Error,
                        origin: Some(Place { file, line_offset: 0 }.origin(fault.mark)),
                        object: None,
                        message: format!("patch: {}; the last good version keeps serving", fault.message),
                    });
                }
                Some(good.clone())
            }
            _ => Some(known.text.clone()),
        }
    }

    /// A `[[secret]]` from its two files.
    fn pair(&mut self, source: &SecretSource) -> Option<Served> {
        let object = secret_ref(source);
        let paths = (self.base.join(&source.certificate), self.base.join(&source.private_key));
        self.watched.push(paths.0.clone());
        self.watched.push(paths.1.clone());
        if let Some(known) = self.cache.pairs.get(&object) {
            let holds = |stamp: &Stamp, path: &Path| Stamp::of(path).is_ok_and(|now| stamp.still_holds(&now));
            if known.source == *source && holds(&known.stamps.0, &paths.0) && holds(&known.stamps.1, &paths.1) {
                self.problems.extend(known.problems.iter().cloned());
                return Some(known.served.clone());
            }
        }
        let origin = Origin { file: self.name.clone(), line: source.line, column: 1 };
        let fault = |message: String| Problem {
            severity: Severity::Error,
            origin: Some(origin.clone()),
            object: Some(object.clone()),
            message,
        };
        let read = |path: &Path| listing::read(path).map_err(|reason| fault(format!("{} {reason}", path.display())));
        let last = self.cache.pairs.get(&object).map(|known| known.served.clone()).filter(|last| last.key.is_some());
        let keep = |mut problem: Problem, last: &Option<Served>| {
            if last.is_some() {
                problem.message.push_str("; the last good version keeps serving");
            }
            problem
        };
        let (chain, key) = match (read(&paths.0), read(&paths.1)) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                for problem in [chain.err(), key.err()].into_iter().flatten() {
                    self.problems.push(keep(problem, &last));
                }
                return last;
            }
        };
        let stamps = (chain.1, key.1);
        let (certificate, key, problems) = match secret::pair(chain.0, Zeroizing::new(key.0)) {
            Ok((facts, key)) => (Ok(facts), Some(Arc::new(key)), Vec::new()),
            Err(reason) => {
                // Two files are never replaced at one instant, so a mismatch may mend itself with the next look.
                let place = format!("{} and {}: {reason}", paths.0.display(), paths.1.display());
                let problem = keep(fault(place), &last);
                if let Some(last) = last {
                    self.problems.push(problem);
                    return Some(last);
                }
                (Err(reason), None, vec![problem])
            }
        };
        let spec = Secret {
            kind: "kubernetes.io/tls".to_owned(),
            keys: vec!["tls.crt".to_owned(), "tls.key".to_owned()],
            contents: SecretContents::Tls { certificate, ca: None },
            crl: None,
            faults: BTreeMap::new(),
        };
        let meta = Meta {
            key: source.key.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            created: None,
            origin,
        };
        let served =
            Served { object: AnyObject::Secret(Arc::new(Object { meta, spec })), key, password: None, texts: None };
        self.problems.extend(problems.iter().cloned());
        let known = KnownPair { source: source.clone(), stamps, served: served.clone(), problems };
        self.cache.pairs.insert(object, known);
        Some(served)
    }

    /// A patch for nothing is a mistake.
    fn check_targets(&mut self, sources: &[PatchSource], inputs: &Inputs) {
        for source in sources {
            let target = ObjectRef::new(source.target.kind, source.target.key.clone());
            if inputs.meta(&target).is_some() || inputs.unusable.contains_key(&target) {
                continue;
            }
            self.problems.push(Problem {
                severity: Severity::Warning,
                origin: Some(Origin { file: self.name.clone(), line: source.line, column: 1 }),
                object: None,
                message: format!("patch: there is no {target} that it could change"),
            });
        }
    }
}

impl KnownFile {
    fn new() -> Self {
        Self { stamp: None, terms: 0, text: None, documents: Documents::default() }
    }

    /// With other words or another namespace nothing of the old decoding holds.
    fn decode_with(&mut self, terms: u64) {
        if self.terms != terms {
            self.documents = Documents::default();
            self.text = None;
            self.terms = terms;
        }
    }

    /// Takes the text as it is now. A file that was touched, or looked at again soon after a change, is most often the
    /// same.
    fn update(&mut self, text: &str, words: &BTreeMap<String, String>, reading: &Reading<'_>) {
        let now = fingerprint(text).rotate_left(7) ^ u64::from(reading.place.line_offset);
        if self.text != Some(now) || self.documents.wants_other_patches(reading.patched) {
            self.documents.update(&substitute(text, words), reading);
            self.text = Some(now);
        }
    }
}

fn secret_ref(source: &SecretSource) -> ObjectRef {
    ObjectRef::new(Kind::Secret, source.key.clone())
}

fn by_target(patches: &[PatchText<'_>]) -> PatchesByTarget {
    let mut targets = PatchesByTarget::new();
    for patch in patches {
        let target = ObjectRef::new(patch.source.target.kind, patch.source.target.key.clone());
        let all = targets.entry(target).or_insert(0);
        let one = fingerprint(&format!("{:?}\0{}\0{}", patch.source.format, patch.place.file, patch.text));
        *all = all.rotate_left(5) ^ one ^ u64::from(patch.place.line_offset);
    }
    targets
}

/// The first bytes of namespace and name, which for names as they should be have the order of [`ObjectKey`].
fn beginning(key: &ObjectKey) -> u128 {
    // What parts the two is less than every byte of a name, so that the shorter one goes first.
    let text = key.namespace.bytes().chain([1]).chain(key.name.bytes()).chain(std::iter::repeat(0));
    text.take(16).fold(0, |all, byte| all << 8 | u128::from(byte))
}

/// Puts objects together; of two with one name the first stays.
fn merge(mut all: Vec<Served>, inputs: &mut Inputs, problems: &mut Vec<Problem>) -> Keys {
    // Objects that arrive in their order cost a fraction of the work, and files are mostly in order already. The sort
    // is stable, so the first of two is still the first.
    let place = |served: &Served| (served.object.kind(), served.object.meta().key.clone());
    // Objects lie all over the memory, so each is looked at once for the first bytes of its name, which tell most apart.
    let mut keyed: Vec<(Kind, u128, Served)> = Vec::with_capacity(all.len());
    keyed.extend(all.drain(..).map(|served| (served.object.kind(), beginning(&served.object.meta().key), served)));
    keyed.sort_by(|(kind, begin, a), (other, begins, b)| {
        (kind, begin).cmp(&(other, begins)).then_with(|| a.object.meta().key.cmp(&b.object.meta().key))
    });
    let mut keys = Keys::default();
    let mut last: Option<(Kind, ObjectKey)> = None;
    let mut first = None;
    for (_, _, served) in keyed {
        let origin = &served.object.meta().origin;
        let this = place(&served);
        if let (Some(first), true) = (&first, last.as_ref() == Some(&this)) {
            problems.push(Problem {
                severity: Severity::Error,
                origin: Some(origin.clone()),
                object: Some(served.object.reference()),
                message: format!("is there twice; the one at {first} is in effect"),
            });
            continue;
        }
        first = Some(origin.clone());
        if served.key.is_some() || served.password.is_some() || served.texts.is_some() {
            keys.put(&served.object.reference(), &served);
        }
        last = Some(this);
        served.object.insert(inputs);
    }
    keys
}
