//! The log, brought to others: `[[deliver]]` in `hallpass.toml`.
//!
//! Each delivery is a task with its own reader of the log and its own cursor, so that none waits
//! for another, and the log's writer for none of them. Every entry arrives at least once, and the
//! first time in order. docs/log.md tells what that is worth.

mod bearer;
mod cursors;
mod feed;
mod message;
mod peer;
mod syslog;
mod webhook;

pub use bearer::BearerError;
pub use cursors::CursorError;
pub use feed::FeedError;
pub use peer::PeerError;
pub use webhook::WebhookError;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Checkpoint, Reader};
use crate::authority::Home;
use crate::model::{Delivery, DeliveryName, Receiver};
use cursors::Cursors;
use feed::Feed;
use peer::TlsPeer;
use webhook::Webhook;

/// How long deliveries may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Deliveries that can begin.
pub struct Prepared {
    deliveries: Vec<(DeliveryName, Way)>,
    /// None when there is nothing to deliver.
    cursors: Option<Arc<Cursors>>,
}

enum Way {
    Syslog(Box<TlsPeer>),
    Webhook(Box<Webhook>),
}

/// The deliveries that run.
pub struct Deliveries {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Prepared {
    /// Checks that each of them can begin.
    ///
    /// # Errors
    /// When one can't: says which and why.
    pub fn new(home: &Home, deliveries: Vec<Delivery>) -> Result<Self, DeliveryError> {
        let deliveries: Vec<(DeliveryName, Way)> = deliveries
            .into_iter()
            .map(
                |Delivery { name, to, ca_file }| match way(home, to, ca_file) {
                    Ok(way) => Ok((name, way)),
                    Err(why) => Err(DeliveryError::Unfit { name, why }),
                },
            )
            .collect::<Result<_, _>>()?;
        let cursors = if deliveries.is_empty() {
            None
        } else {
            Some(Arc::new(Cursors::open(&home.deliveries())?))
        };
        Ok(Self {
            deliveries,
            cursors,
        })
    }

    /// Begins to deliver the log of `home`, which grows as `newest` tells.
    ///
    /// # Errors
    /// When it can't be read, or it is not known from where on.
    pub fn start(
        self,
        home: &Home,
        newest: &watch::Receiver<Option<Checkpoint>>,
    ) -> Result<Deliveries, FeedError> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        for ((name, way), cursors) in self.deliveries.into_iter().zip(self.cursors.iter().cycle()) {
            let reader = Reader::open(&home.database())?;
            let feed = Feed::resume(name, reader, newest.clone(), Arc::clone(cursors))?;
            let stop = stop.clone();
            let work = async {
                match way {
                    Way::Syslog(peer) => syslog::run(feed, &peer).await,
                    Way::Webhook(webhook) => webhook.run(feed).await,
                }
            };
            tasks.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(Deliveries { stop, tasks })
    }
}

impl Deliveries {
    /// Ends them. What was not delivered is delivered after the next start.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(FAREWELL, self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("deliveries were cut off");
        }
    }
}

/// Paths stand in relation to the home.
fn way(home: &Home, to: Receiver, ca_file: Option<PathBuf>) -> Result<Way, Unfit> {
    let in_home = |path| home.folder().join(path);
    let ca_file = ca_file.map(in_home);
    Ok(match to {
        Receiver::Syslog(endpoint) => {
            Way::Syslog(Box::new(TlsPeer::new(endpoint, ca_file.as_deref())?))
        }
        Receiver::Webhook { url, bearer_file } => {
            let bearer_file = bearer_file.map(in_home);
            Way::Webhook(Box::new(Webhook::new(url, ca_file, bearer_file)?))
        }
    })
}

/// Why the log can't be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It is not known how far deliveries have come.
    #[error(transparent)]
    Cursors(#[from] CursorError),
    /// One of them can't begin.
    #[error("hallpass.toml: deliver {:?}: {why}", name.as_str())]
    Unfit {
        /// Which.
        name: DeliveryName,
        /// Why.
        why: Unfit,
    },
}

/// What is wrong with one delivery.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The receiver could not be known.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Nothing could be posted.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
}
