//! CAA: may this CA, by this challenge and account, issue for a name? A pure judgement over records as they were found.
//!
//! In: the first non-empty CAA set on the way up from the name, and who asks. Out: leave, refusal with its reason, or
//! that it cannot be known. Finding the set is the caller's (RFC 8659 §3). RFC 8659 §4, RFC 8657 §3-4.

/// One CAA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caa {
    pub critical: bool,
    pub tag: Box<str>,
    pub value: Box<str>,
}

/// Who would issue.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// `caaIdentities` of the CA's directory.
    pub identities: &'a [Box<str>],
    /// URL of the account.
    pub account: Option<&'a str>,
    /// Label of the challenge, such as `http-01`.
    pub method: &'a str,
    pub wildcard: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    Granted,
    /// Why not, as the middle of a sentence.
    Denied(String),
    /// It depends on something that is not known here.
    Unknown(String),
}

/// Tags that a CA must know, or that it knows in practice; a critical one beyond these forbids (RFC 8659 §4.5).
const KNOWN: [&str; 7] = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone", "issuevmc"];

/// Judges one set.
pub fn judge(set: &[Caa], asker: &Asker<'_>) -> Leave {
    let unknown = set.iter().find(|caa| caa.critical && !KNOWN.iter().any(|tag| caa.tag.eq_ignore_ascii_case(tag)));
    if let Some(caa) = unknown {
        return Leave::Denied(format!("has the critical property {:?} that no CA knows", caa.tag));
    }
    let with = |tag: &str| set.iter().filter(|caa| caa.tag.eq_ignore_ascii_case(tag)).collect::<Vec<_>>();
    // issuewild alone counts for wildcards where there is one (RFC 8659 §4.3).
    let mut tag = "issuewild";
    let mut properties = if asker.wildcard { with(tag) } else { Vec::new() };
    if properties.is_empty() {
        tag = "issue";
        properties = with(tag);
    }
    if properties.is_empty() {
        return Leave::Granted;
    }
    let mut reasons: Vec<String> = Vec::new();
    let mut unsure: Option<String> = None;
    for property in &properties {
        match admits(&property.value, asker) {
            Admits::Yes => return Leave::Granted,
            Admits::Unknown(why) => unsure = unsure.or(Some(why)),
            Admits::No(why) => {
                if !reasons.contains(&why) {
                    reasons.push(why);
                }
            }
        }
    }
    match unsure {
        Some(why) => Leave::Unknown(format!("{tag} {why}")),
        None => Leave::Denied(format!("{tag} {}", reasons.join(", "))),
    }
}

enum Admits {
    Yes,
    No(String),
    Unknown(String),
}

/// One value of `issue` or `issuewild`: `[DOMAIN] *(; TAG=VALUE)` (RFC 8659 §4.2). What breaks the grammar admits none.
fn admits(value: &str, asker: &Asker<'_>) -> Admits {
    let mut parts = value.split(';').map(|part| part.trim_matches([' ', '\t']));
    let domain = parts.next().unwrap_or_default();
    if domain.is_empty() {
        return Admits::No("admits no CA".into());
    }
    if asker.identities.is_empty() {
        return Admits::Unknown(format!("admits {domain}, and this CA does not say which name it goes by"));
    }
    if !asker.identities.iter().any(|identity| identity.eq_ignore_ascii_case(domain)) {
        return Admits::No(format!("admits {domain}"));
    }
    let (mut methods, mut account) = (None, None);
    for parameter in parts.filter(|part| !part.is_empty()) {
        let Some((tag, value)) = parameter.split_once('=') else {
            return Admits::No(format!("has the malformed parameter {parameter:?}"));
        };
        let (tag, value) = (tag.trim_end_matches([' ', '\t']), value.trim_start_matches([' ', '\t']));
        // A parameter given twice can never be met (RFC 8657 §3 and §4).
        let twice = |tag: &str| Admits::No(format!("has {tag} twice, which admits nobody"));
        if tag.eq_ignore_ascii_case("validationmethods") {
            if methods.replace(value).is_some() {
                return twice("validationmethods");
            }
        } else if tag.eq_ignore_ascii_case("accounturi") && account.replace(value).is_some() {
            return twice("accounturi");
        }
    }
    if let Some(methods) = methods
        && !methods.split(',').any(|method| method.trim() == asker.method)
    {
        return Admits::No(format!("admits {domain} by {methods} only, not by {}", asker.method));
    }
    match (account, asker.account) {
        (Some(wanted), Some(ours)) if wanted != ours => Admits::No(format!("admits account {wanted} only, not {ours}")),
        (Some(wanted), None) => Admits::Unknown(format!("admits account {wanted} only, and ours is not known yet")),
        _ => Admits::Yes,
    }
}

#[cfg(test)]
#[path = "caa/tests.rs"]
mod tests;
