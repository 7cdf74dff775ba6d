//! From an order that is ready to the certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::OrderStatus;

use super::account::Live;
use super::certificate::{Answered, Wrong, look};
use super::links::links;
use super::obtain::{Run, Shown};
use super::pace::Pace;
use super::refusal::{resumable, unmoved};
use super::{Journal, OrderRecord};
use crate::challenge::Present;
use crate::client::now;
use crate::failure::{Class, OrderError, Step};

const FINALIZE_TRIES: u32 = 3;
/// Chains that are looked at for the preferred one.
const ALTERNATES: usize = 8;

impl<P: Present, J: Journal> Run<'_, P, J> {
    /// From ready to the certificate.
    pub(super) async fn finish(
        &self,
        live: &Live,
        record: &mut OrderRecord,
        shown: &mut Shown,
        notes: &mut Vec<String>,
    ) -> Result<Answered, OrderError> {
        let ours = |what: String| OrderError::new(Class::Ours, Step::Prepare, what);
        let csr = STANDARD.decode(&*record.csr).map_err(|error| ours(error.to_string()))?;
        let mut pace = Pace::new();
        let mut tries = 0;
        // What the CA had against the request, as long as the order does not move.
        let mut refused = None;
        loop {
            match shown.order.state().status {
                OrderStatus::Ready if tries == FINALIZE_TRIES => {
                    let what = "the CA takes the request and leaves the order as it was";
                    return Err(refused.unwrap_or_else(|| unmoved(Step::Finalize, what)));
                }
                OrderStatus::Ready => {
                    if tries > 0 {
                        pace.last = pace.last.take().or(refused.take());
                        self.rest(&mut pace, Step::Finalize).await?;
                    }
                    tries += 1;
                    record.finalizing = true;
                    self.write(record).await.map_err(|error| resumable(error, true))?;
                    let order = &mut shown.order;
                    let sent = self.account.call(Step::Finalize, async || order.finalize_csr(&csr).await).await;
                    match sent {
                        Ok(((), last)) => {
                            pace.note(last.as_ref());
                            shown.last = last;
                        }
                        // It may have arrived; the order tells.
                        Err(error) if matches!(error.class, Class::Transient | Class::Limited) => {
                            pace.failed(&error);
                            self.rest(&mut pace, Step::Finalize).await?;
                            self.refresh(live, shown, Step::Finalize, &mut pace).await?;
                            refused = Some(resumable(error, true));
                        }
                        Err(error) => return Err(error),
                    }
                }
                OrderStatus::Valid => break,
                OrderStatus::Invalid => return Err(shown.refusal(Step::Finalize)),
                // Pending again is nothing that a CA may do; it is waited for like the rest.
                OrderStatus::Processing | OrderStatus::Pending => {
                    self.rest(&mut pace, Step::Finalize).await?;
                    self.refresh(live, shown, Step::Finalize, &mut pace).await?;
                }
            }
        }
        let Some(url) = shown.order.state().certificate.clone() else {
            return Err(unmoved(Step::Download, "the order is valid and has no certificate"));
        };
        self.download(live, &url, record, notes).await
    }

    async fn download(
        &self,
        live: &Live,
        url: &str,
        record: &OrderRecord,
        notes: &mut Vec<String>,
    ) -> Result<Answered, OrderError> {
        let account = self.account;
        let look_at = |body: &[u8]| look(body, self.wish, record.key.reveal(), now());
        let answer = account.post(Step::Download, live, url, None).await;
        let answer = answer.map_err(|error| resumable(error, true))?;
        let found = look_at(&answer.body).map_err(|wrong| match wrong {
            Wrong::Garbage(what) => resumable(OrderError::new(Class::Transient, Step::Verify, what), true),
            Wrong::Certificate(what) => OrderError::new(Class::Config, Step::Verify, what),
        })?;
        let Some(preferred) = self.account.issuer().preferred_chain.as_deref() else { return Ok(found) };
        if found.common_names.contains(preferred) {
            return Ok(found);
        }
        // RFC 8555 §7.4.2.
        let alternates = links(&answer, "alternate");
        let mut seen = found.common_names.clone();
        for url in alternates.iter().take(ALTERNATES) {
            let Ok(answer) = account.post(Step::Download, live, url, None).await else { continue };
            let Ok(other) = look_at(&answer.body) else { continue };
            if other.common_names.contains(preferred) {
                return Ok(other);
            }
            seen.extend(other.common_names);
        }
        let seen: Vec<String> = seen.into_iter().take(12).collect();
        notes.push(format!("no chain has {preferred:?}; there are {}", seen.join(", ")));
        Ok(found)
    }
}
