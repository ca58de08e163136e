//! Delivery to a syslog server over TLS (RFC 5425).
//!
//! Syslog acknowledges nothing. What was written to a connection may still be lost when the
//! receiver dies, so an entry counts as delivered only when the receiver's kernel has had it for
//! a while on a connection that is still there. After a reconnect, all that does not count is sent
//! again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::cursors::Cursor;
use super::feed::{Feed, Page};
use super::message::{frame, host, message};
use super::peer::TlsPeer;

/// How many entries are written at once, and of how many bytes but for a single one.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 256 * 1024;
/// How often it is looked at what has arrived.
const TICK: Duration = Duration::from_millis(250);
/// For so many looks in a row the connection must stand after an entry has arrived: 10 s. Counted
/// and not timed, so that a machine which slept does not take its sleep for a standing connection.
const SETTLED: u32 = 40;
/// After so many it is said that the receiver takes entries: 5 s.
const STANDS: u32 = 20;

/// Delivers for ever.
pub(super) async fn run(mut feed: Feed, peer: &TlsPeer) {
    loop {
        let why = match session(&mut feed, peer).await {
            Ok(never) => match never {},
            Err(error) => error.to_string(),
        };
        feed.down(&why, None).await;
    }
}

/// Delivers over one connection, for as long as it stands.
async fn session(feed: &mut Feed, peer: &TlsPeer) -> io::Result<std::convert::Infallible> {
    let tcp = peer.connect().await?;
    let queue = Queue {
        socket: tcp.as_fd().try_clone_to_owned()?,
        written: Arc::default(),
    };
    let counted = Counted {
        stream: tcp,
        written: Arc::clone(&queue.written),
    };
    let (mut reader, writer) = tokio::io::split(peer.secure(counted).await?);
    let mut dead = pin!(async move {
        let mut heard = [0; 512];
        loop {
            // Whatever it says means nothing.
            if reader.read(&mut heard).await? == 0 {
                let why = "the receiver closed the connection";
                return Err::<std::convert::Infallible, _>(io::Error::other(why));
            }
        }
    });
    let mut line = Line {
        writer,
        queue,
        host: host(),
        sent: feed.next(),
        unsettled: VecDeque::new(),
        looked: Instant::now(),
        looks: 0,
    };
    loop {
        if line.sent < feed.size() {
            tokio::select! {
                biased;
                gone = &mut dead => return gone,
                written = line.write(feed) => written?,
            }
        } else {
            // Until everything has settled, or something is to be sent.
            let at_rest = line.unsettled.is_empty() && line.looks > STANDS;
            let sent = line.sent;
            tokio::select! {
                biased;
                gone = &mut dead => return gone,
                () = feed.wait_for(sent) => {}
                () = tokio::time::sleep_until(line.looked + TICK), if !at_rest => {}
            }
        }
        line.look(feed)?;
    }
}

/// A connection with what was sent on it.
struct Line {
    writer: WriteHalf<TlsStream<Counted<TcpStream>>>,
    queue: Queue,
    host: String,
    /// The next entry to send.
    sent: u64,
    /// What was sent and does not count as delivered yet.
    unsettled: VecDeque<Sent>,
    looked: Instant,
    /// How often it was looked so far.
    looks: u32,
}

/// A page that was sent.
struct Sent {
    cursor: Cursor,
    /// How many bytes were written when it was.
    written: u64,
    /// At which look it had arrived.
    arrived: Option<u32>,
}

impl Line {
    /// Sends the next page.
    async fn write(&mut self, feed: &Feed) -> io::Result<()> {
        let page: Page = feed
            .page(self.sent, PAGE, PAGE_BYTES)
            .map_err(io::Error::other)?;
        let Some(cursor) = page.cursor() else {
            return Err(io::Error::other(
                "the log ends before its checkpoint says so",
            ));
        };
        let log = feed.log();
        let mut frames = Vec::new();
        for (entry, index) in page.entries.iter().zip(page.first..) {
            frames.extend(frame(&message(index, entry, &self.host, &log)));
        }
        self.writer.write_all(&frames).await?;
        // Out of rustls and into the socket, so that it is counted.
        self.writer.flush().await?;
        self.sent = cursor.next;
        self.unsettled.push_back(Sent {
            cursor,
            written: self.queue.written.load(Ordering::Relaxed),
            arrived: None,
        });
        Ok(())
    }

    /// Looks at what has arrived, when it is time for that.
    fn look(&mut self, feed: &mut Feed) -> io::Result<()> {
        if self.looked.elapsed() < TICK {
            return Ok(());
        }
        self.looked = Instant::now();
        self.looks = self.looks.saturating_add(1);
        let arrived = self.queue.arrived()?;
        for sent in &mut self.unsettled {
            if sent.written <= arrived {
                sent.arrived.get_or_insert(self.looks);
            }
        }
        let mut settled = None;
        while let Some(sent) = self.unsettled.front()
            && let Some(look) = sent.arrived
            && self.looks - look >= SETTLED
        {
            settled = Some(sent.cursor);
            self.unsettled.pop_front();
        }
        if let Some(cursor) = settled {
            feed.advance(&cursor);
        }
        if self.looks >= STANDS {
            feed.up();
        }
        Ok(())
    }
}

/// What was written to a socket, and how much of it the peer's kernel has.
struct Queue {
    socket: OwnedFd,
    written: Arc<AtomicU64>,
}

impl Queue {
    fn arrived(&self) -> io::Result<u64> {
        let written = self.written.load(Ordering::Relaxed);
        let mut waiting: libc::c_int = 0;
        // The number is that of SIOCOUTQ: what the peer has not acknowledged, sent or not.
        // SAFETY: an open socket, and an integer for the answer.
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(written.saturating_sub(u64::try_from(waiting).unwrap_or_default()))
    }
}

/// A stream that counts what is written to it.
struct Counted<S> {
    stream: S,
    written: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = outcome {
            self.written.fetch_add(length as u64, Ordering::Relaxed);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
