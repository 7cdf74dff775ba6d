//! The door between the channel and whoever has what edges share.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use crate::certs::Door;
use crate::certs::command::CertCommand;
use crate::certs::edges::Shared;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Has what is shared, and takes what others share.
pub trait Holdings: Send + Sync + 'static {
    /// Resolves when it is in force here and stored, or with one line about why not.
    fn receive(&self, shared: Shared) -> BoxFuture<'_, Result<(), String>>;

    /// Everything that an edge which comes up may lack. `None`: nobody can tell now.
    fn all(&self) -> BoxFuture<'_, Option<Vec<Shared>>>;
}

impl Holdings for Door {
    fn receive(&self, shared: Shared) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.send(CertCommand::Received { shared, reply });
            answer.await.unwrap_or_else(|_| Err("it is stopping".to_owned())).map(drop)
        })
    }

    fn all(&self) -> BoxFuture<'_, Option<Vec<Shared>>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.send(CertCommand::Held { reply });
            answer.await.ok()
        })
    }
}
