//! A CA that keeps to Let's Encrypt's published rules: an own implementation of its limits, which knows nothing of the
//! one under test. Tokens trickle into buckets as fractions; what finds no whole token is refused, and the refusal is
//! counted against the client.

use std::collections::{BTreeMap, BTreeSet};

pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

/// Name, most, seconds until full again.
const LIMITS: [(&str, f64, f64); 5] = [
    ("accounts per address", 10.0, 10_800.0),
    ("orders per account", 300.0, 10_800.0),
    ("certificates per registered domain", 50.0, 604_800.0),
    ("certificates per exact set", 5.0, 604_800.0),
    ("failed validations per name", 5.0, 3_600.0),
];

#[derive(Default)]
pub struct Ca {
    buckets: BTreeMap<(usize, String), (f64, i64)>,
    /// The lowest level that was ever seen of each kind.
    pub lowest: [f64; 5],
    pub used: [u64; 5],
    pub exempt: u64,
    pub refused: Vec<String>,
    pub down: bool,
    /// Names that cannot be validated.
    pub broken: BTreeSet<String>,
    issued: BTreeMap<String, Leaf>,
    sets: BTreeSet<Vec<String>>,
    serial: u64,
    /// Certificates that begin before this are to be renewed at once.
    pub recalled_before: i64,
    pub per_hour: BTreeMap<i64, u32>,
}

struct Leaf {
    account: String,
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
    replaced: bool,
}

/// What the CA thinks a name belongs to; the domains of the simulation, by hand.
fn domain(name: &str) -> String {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return name.to_owned();
    }
    let labels: Vec<&str> = name.trim_start_matches("*.").split('.').collect();
    let keep = if name.ends_with(".co.uk") { 3 } else { 2 };
    labels[labels.len().saturating_sub(keep)..].join(".")
}

impl Ca {
    pub fn new() -> Self {
        Self { lowest: LIMITS.map(|(_, most, _)| most), ..Self::default() }
    }

    fn level(&mut self, kind: usize, of: &str, now: i64) -> &mut f64 {
        let (_, most, period) = LIMITS[kind];
        let (tokens, at) = self.buckets.entry((kind, of.to_owned())).or_insert((most, now));
        *tokens = (*tokens + (now - *at) as f64 * most / period).min(most);
        *at = now;
        tokens
    }

    /// Whether there is a whole token, but for the rounding of floating-point numbers.
    fn has(&mut self, kind: usize, of: &str, now: i64) -> bool {
        let enough = *self.level(kind, of, now) >= 1.0 - 1e-6;
        if !enough {
            self.refused.push(format!("{} of {of} at {now}", LIMITS[kind].0));
        }
        enough
    }

    fn spend(&mut self, kind: usize, of: &str, now: i64) {
        let level = self.level(kind, of, now);
        *level -= 1.0;
        let level = *level;
        self.lowest[kind] = self.lowest[kind].min(level);
        self.used[kind] += 1;
    }

    pub fn new_account(&mut self, now: i64) -> String {
        if self.has(0, "edge", now) {
            self.spend(0, "edge", now);
        }
        "https://ca/account/1".to_owned()
    }

    /// `false`: refused for a limit.
    pub fn new_order(&mut self, account: &str, names: &[String], replaces: Option<&str>, now: i64) -> bool {
        *self.per_hour.entry(now / HOUR).or_default() += 1;
        if let Some(leaf) = replaces.and_then(|id| self.issued.get_mut(id)) {
            let common = names.iter().any(|name| leaf.names.contains(name));
            assert!(common && !leaf.replaced && leaf.account == account, "replaces what it may not");
            leaf.replaced = true;
            self.exempt += 1;
            return true;
        }
        assert!(replaces.is_none(), "replaces a certificate that never was");
        let set = sorted(names);
        let renewal = self.sets.contains(&set);
        let mut passes = self.has(3, &set.join(","), now);
        for name in names {
            passes &= self.has(4, name, now);
        }
        if !renewal {
            passes &= self.has(1, account, now);
            for domain in domains(names) {
                passes &= self.has(2, &domain, now);
            }
        }
        if passes {
            self.spend(3, &set.join(","), now);
            if !renewal {
                self.spend(1, account, now);
                for domain in domains(names) {
                    self.spend(2, &domain, now);
                }
            }
        }
        passes
    }

    pub fn validation_failed(&mut self, name: &str, now: i64) {
        self.spend(4, name, now);
    }

    /// Nothing was issued: what is counted by certificates is not counted.
    pub fn not_issued(&mut self, names: &[String], exempt: bool, now: i64) {
        let set = sorted(names);
        if exempt {
            // As Boulder: a replacement that came to nothing was none.
            let newest = self.issued.values_mut().filter(|leaf| leaf.names == set).max_by_key(|leaf| leaf.not_before);
            newest.unwrap().replaced = false;
            return;
        }
        *self.level(3, &set.join(","), now) += 1.0;
        if !self.sets.contains(&set) {
            for domain in domains(names) {
                *self.level(2, &domain, now) += 1.0;
            }
        }
    }

    /// Its identifier, beginning and end.
    pub fn issue(&mut self, account: &str, names: &[String], lifetime: i64, now: i64) -> (String, i64, i64) {
        self.serial += 1;
        let id = format!("leaf-{}", self.serial);
        let (not_before, not_after) = (now - HOUR, now - HOUR + lifetime);
        let names = sorted(names);
        self.sets.insert(names.clone());
        let leaf = Leaf { account: account.to_owned(), names, not_before, not_after, replaced: false };
        self.issued.insert(id.clone(), leaf);
        (id, not_before, not_after)
    }

    /// As Boulder does: two per cent of the lifetime, around two thirds of it; around its half, if it is short.
    pub fn window(&self, id: &str, now: i64) -> (i64, i64) {
        let leaf = &self.issued[id];
        let lifetime = leaf.not_after - leaf.not_before;
        if leaf.not_before < self.recalled_before && now >= self.recalled_before {
            return (self.recalled_before - DAY, self.recalled_before - DAY + HOUR);
        }
        let ideal = if lifetime < 10 * DAY { lifetime / 2 } else { lifetime - lifetime / 3 };
        (leaf.not_before + ideal - lifetime / 100, leaf.not_before + ideal + lifetime / 100)
    }

    /// One line per limit.
    pub fn summary(&self) -> String {
        let lines = LIMITS.iter().enumerate().map(|(kind, (name, most, _))| {
            let (used, most_used) = (self.used[kind], most - self.lowest[kind]);
            format!("{name}: {used} counted in all, at most {most_used:.2} of {most} at a time")
        });
        let mut lines: Vec<String> = lines.collect();
        lines.push(format!("orders free of limits (replaces): {}", self.exempt));
        lines.push(format!("most orders in an hour: {}", self.per_hour.values().max().copied().unwrap_or(0)));
        lines.join("\n")
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn domains(names: &[String]) -> BTreeSet<String> {
    names.iter().map(|name| domain(name)).collect()
}
