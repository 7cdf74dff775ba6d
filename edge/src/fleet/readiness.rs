//! Whether all edges answer a challenge, and who does not: before a CA is told to ask.

use std::fmt;

use crate::certs::edges::Delivery;

/// What the edges said of one challenge, this edge included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    answering: usize,
    of: usize,
    /// Live, and without the answer.
    refusing: Vec<(String, String)>,
    /// Not live: the network leads nobody there, or soon will not.
    absent: Vec<(String, String)>,
}

impl Readiness {
    /// This edge answers; the others as their deliveries say.
    pub fn of(deliveries: &[Delivery], absent: &[(String, String)]) -> Self {
        let refusing = deliveries.iter().filter_map(|delivery| {
            let why = delivery.result.as_ref().err()?;
            Some((delivery.edge.clone(), why.clone()))
        });
        let refusing: Vec<_> = refusing.collect();
        Self {
            answering: 1 + deliveries.len() - refusing.len(),
            of: 1 + deliveries.len() + absent.len(),
            refusing,
            absent: absent.to_vec(),
        }
    }

    /// Whether the CA may ask: every edge that is live answers.
    pub fn is_ready(&self) -> bool {
        self.refusing.is_empty()
    }
}

/// `2/3 edges answer; c: no answer within 5 s`
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} edges answer", self.answering, self.of)?;
        for (edge, why) in &self.refusing {
            write!(f, "; {edge}: {why}")?;
        }
        for (edge, why) in &self.absent {
            write!(f, "; {edge} is not asked: {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_and_who_does_not() {
        let delivery = |edge: &str, result: Result<(), &str>| Delivery {
            edge: edge.into(),
            result: result.map_err(str::to_owned),
        };
        let good = [delivery("b", Ok(())), delivery("c", Ok(()))];
        let bad = [delivery("b", Ok(())), delivery("c", Err("no answer within 5s"))];
        let absent = [("d".to_owned(), "connection refused".to_owned())];
        for (deliveries, absent, ready, expected) in [
            (&[][..], &[][..], true, "1/1 edges answer"),
            (&good, &[], true, "3/3 edges answer"),
            (&bad, &[], false, "2/3 edges answer; c: no answer within 5s"),
            (&good, &absent, true, "3/4 edges answer; d is not asked: connection refused"),
        ] {
            let readiness = Readiness::of(deliveries, absent);
            assert_eq!((readiness.is_ready(), readiness.to_string().as_str()), (ready, expected));
        }
    }
}
