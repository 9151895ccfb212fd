//! Frames on a socketpair: u32 length (big-endian) and postcard, both ways, behind two bounded
//! queues.
//!
//! What happens at the bounds: a full incoming queue stops the reader, so the kernel's socket
//! buffer and then the sender's queue fill up (back-pressure); a frame longer than
//! [`FRAME_LIMIT`] or one that does not decode ends the connection, because after it the two
//! sides no longer agree about anything. An answer that would be longer is not sent: an error is
//! sent in its place.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt as _};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, sync::mpsc, task::JoinHandle};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::ipc::{FRAME_LIMIT, InPlace, QUEUE_LIMIT};

/// Why a connection ended other than by the peer's hanging up.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("reading a frame (limit {FRAME_LIMIT} bytes): {0}")]
    Read(#[source] std::io::Error),
    #[error("writing a frame (limit {FRAME_LIMIT} bytes): {0}")]
    Write(#[source] std::io::Error),
    #[error("frame of {length} bytes is not a message: {source}")]
    Decode { length: usize, source: postcard::Error },
    #[error("message cannot be encoded: {0}")]
    Encode(#[source] postcard::Error),
}

/// A decoded, bounded, two-way connection. Dropping `tx` closes the writing half once the queue
/// is flushed (await `writer` to know when); `rx` ends when the peer hung up or misbehaved.
pub struct Connection<In, Out> {
    /// Messages from the peer.
    pub rx: mpsc::Receiver<In>,
    /// Messages to the peer.
    pub tx: mpsc::Sender<Out>,
    /// Ends with the reading half; tells why when it was not a plain hang-up.
    pub reader: JoinHandle<Result<(), CodecError>>,
    /// Ends when every `tx` is gone and the queue is written, or the peer is gone.
    pub writer: JoinHandle<Result<(), CodecError>>,
}

fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_LIMIT).new_codec()
}

/// Puts typed queues in front of a stream. Must be called inside a tokio runtime.
pub fn connect<In, Out>(stream: UnixStream) -> Connection<In, Out>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + InPlace + Send + 'static,
{
    let (read_half, write_half) = stream.into_split();
    let (in_tx, rx) = mpsc::channel::<In>(QUEUE_LIMIT);
    let (tx, mut out_rx) = mpsc::channel::<Out>(QUEUE_LIMIT);
    let reader = tokio::spawn(async move {
        let mut frames = FramedRead::new(read_half, framing());
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(CodecError::Read)?;
            let message = postcard::from_bytes(&frame)
                .map_err(|source| CodecError::Decode { length: frame.len(), source })?;
            if in_tx.send(message).await.is_err() {
                break; // nobody listens any more
            }
        }
        Ok(())
    });
    let writer = tokio::spawn(async move {
        let mut frames = FramedWrite::new(write_half, framing());
        while let Some(message) = out_rx.recv().await {
            let mut bytes = postcard::to_stdvec(&message).map_err(CodecError::Encode)?;
            if bytes.len() > FRAME_LIMIT
                && let Some(short) = message.in_place(bytes.len())
            {
                bytes = postcard::to_stdvec(&short).map_err(CodecError::Encode)?;
            }
            frames.send(Bytes::from(bytes)).await.map_err(CodecError::Write)?;
        }
        SinkExt::<Bytes>::close(&mut frames).await.map_err(CodecError::Write)
    });
    Connection { rx, tx, reader, writer }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;
    use crate::process::ipc::{Down, Reply, Up};

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn messages_cross_in_order_and_hang_up_ends_the_queue() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let mut watchdog = connect::<Up, Down>(a);
        let mut child = connect::<Down, Up>(b);
        for seq in 0..3000 {
            watchdog.tx.send(Down::Ping { seq }).await.expect("room");
            let Some(Down::Ping { seq: seen }) = child.rx.recv().await else {
                panic!("ping {seq} did not arrive")
            };
            assert_eq!(seen, seq);
        }
        child.tx.send(Up::Stopped).await.expect("room");
        drop(child.tx);
        drop(child.rx);
        child.writer.await.expect("writer task").expect("flushed");
        assert!(matches!(watchdog.rx.recv().await, Some(Up::Stopped)));
        child.reader.abort(); // frees the socket's other half
        let end = timeout(DEADLINE, watchdog.rx.recv()).await.expect("hang-up is seen");
        assert!(end.is_none());
    }

    /// An operator's question must not cost a role its link.
    #[tokio::test]
    async fn an_answer_that_is_too_long_becomes_an_error_and_the_link_goes_on() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let mut watchdog = connect::<Up, Down>(a);
        let mut child = connect::<Down, Up>(b);
        let reply = Reply::Text("x".repeat(FRAME_LIMIT));
        child.tx.send(Up::Reply { id: 7, reply: reply.clone() }).await.expect("room");
        let heard = timeout(DEADLINE, watchdog.rx.recv()).await.expect("in time");
        let Some(Up::Reply { id: 7, reply: Reply::Error(why) }) = heard else { panic!("no error") };
        assert!(why.contains("16777216 bytes"), "{why}");
        watchdog.tx.send(Down::Answer { id: 8, reply }).await.expect("room");
        let heard = timeout(DEADLINE, child.rx.recv()).await.expect("in time");
        assert!(matches!(heard, Some(Down::Answer { id: 8, reply: Reply::Error(_) })));
        child.tx.send(Up::Stopped).await.expect("room");
        let heard = timeout(DEADLINE, watchdog.rx.recv()).await.expect("in time");
        assert!(matches!(heard, Some(Up::Stopped)), "the link is gone");
    }

    #[tokio::test]
    async fn oversized_frame_ends_the_connection() {
        let (a, mut b) = UnixStream::pair().expect("socketpair");
        let mut watchdog = connect::<Up, Down>(a);
        let length = u32::try_from(FRAME_LIMIT + 1).expect("fits");
        b.write_all(&length.to_be_bytes()).await.expect("written");
        let end = timeout(DEADLINE, watchdog.rx.recv()).await.expect("ends in time");
        assert!(end.is_none());
        let error = watchdog.reader.await.expect("reader task").expect_err("too long");
        assert!(matches!(error, CodecError::Read(_)), "{error}");
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_and_says_so() {
        let (a, mut b) = UnixStream::pair().expect("socketpair");
        let mut watchdog = connect::<Up, Down>(a);
        b.write_all(&[0, 0, 0, 2, 0xff, 0xff]).await.expect("written");
        assert!(timeout(DEADLINE, watchdog.rx.recv()).await.expect("ends in time").is_none());
        let error = watchdog.reader.await.expect("reader task").expect_err("no message");
        assert!(matches!(error, CodecError::Decode { length: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn reader_that_lags_blocks_the_sender_at_the_queue_limit() {
        let (a, b) = UnixStream::pair().expect("socketpair");
        let watchdog = connect::<Up, Down>(a);
        let child = connect::<Down, Up>(b);
        // Nobody takes from child.rx: what is sent fills both queues and the socket, then blocks.
        let mut sent = 0_usize;
        let text = "x".repeat(4096);
        while let Ok(Ok(())) = timeout(
            Duration::from_secs(2),
            watchdog.tx.send(Down::Query {
                id: 0,
                query: crate::process::ipc::Query::Explain { what: text.clone() },
            }),
        )
        .await
        {
            sent += 1;
            assert!(sent < 10 * QUEUE_LIMIT, "no back-pressure");
        }
        assert!(sent >= 2 * QUEUE_LIMIT, "both queues are used, only {sent} were taken");
        drop(child);
    }
}
