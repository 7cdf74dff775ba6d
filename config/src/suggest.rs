//! "Did you mean": the closest of the known names.

/// The candidate that a misspelt name most likely meant, if any is close enough.
pub fn closest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if name.len() > 64 {
        return None;
    }
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = if candidate.eq_ignore_ascii_case(name) { 0 } else { distance(name, candidate) };
            (distance <= limit).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// `, did you mean "port"?` or nothing.
pub(crate) fn hint<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    closest(name, candidates).map(|candidate| format!(", did you mean `{candidate}`?")).unwrap_or_default()
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    for i in 0..a.len() {
        row[0] = i + 1;
        for j in 0..b.len() {
            let substitution = last[j] + usize::from(!a[i].eq_ignore_ascii_case(&b[j]));
            row[j + 1] = substitution.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        std::mem::swap(&mut before_last, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let known = ["hostname", "hostnames", "parentRefs", "port", "rules"];
        for (name, expected) in [
            ("hostnmaes", Some("hostnames")),
            ("parentrefs", Some("parentRefs")),
            ("parentRef", Some("parentRefs")),
            ("prot", Some("port")),
            ("rule", Some("rules")),
            ("backendRefs", None),
            ("x", None),
        ] {
            assert_eq!(closest(name, known), expected, "{name}");
        }
    }
}
