//! Bodies of the API's answers, read within limits of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;

/// The body of one answer.
pub(super) struct Reader<'a> {
    address: &'a str,
    body: Body,
    /// Bytes received and not returned yet, and the number of them known to have no newline.
    buffer: BytesMut,
    searched: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(address: &'a str, body: Body) -> Self {
        Self {
            address,
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// Returns the whole body, of `limit` bytes at most, within `patience`.
    pub(super) async fn whole(
        mut self,
        limit: usize,
        patience: Duration,
    ) -> Result<BytesMut, Failure> {
        let deadline = Instant::now() + patience;
        while let Some(chunk) = self.chunk(deadline, "end its answer", patience).await? {
            self.take_in(&chunk, limit)?;
        }
        Ok(self.buffer)
    }

    /// Returns the next line, of `limit` bytes at most; none at the end of the body. The line has to begin within
    /// `idle`, and to end within `patience` from there.
    pub(super) async fn line(
        &mut self,
        limit: usize,
        idle: Duration,
        patience: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        let mut wait = (Instant::now() + idle, "end the watch in time", idle);
        let mut begun = false;
        loop {
            if let Some(line) = self.buffered_line() {
                return Ok(Some(line));
            }
            if !self.buffer.is_empty() && !begun {
                begun = true;
                wait = (Instant::now() + patience, "go on with a line", patience);
            }
            match self.chunk(wait.0, wait.1, wait.2).await? {
                Some(chunk) => self.take_in(&chunk, limit)?,
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let what = "a watch that ended in the middle of a line";
                    return Err(Failure::bad_answer(self.address, what));
                }
            }
        }
    }

    /// Returns what arrives within `limit` and `patience`, to add detail to an answer that has failed already.
    pub(super) async fn some(mut self, limit: usize, patience: Duration) -> BytesMut {
        let deadline = Instant::now() + patience;
        while let Ok(Some(chunk)) = self.chunk(deadline, "end its answer", patience).await {
            if self.take_in(&chunk, limit).is_err() {
                break;
            }
        }
        self.buffer
    }

    fn buffered_line(&mut self) -> Option<Bytes> {
        let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end + 1).freeze();
        self.searched = 0;
        if self.buffer.is_empty() {
            // Gives back the memory of a long line.
            self.buffer = BytesMut::new();
        }
        Some(line.slice(..line.len() - 1))
    }

    fn take_in(&mut self, chunk: &[u8], limit: usize) -> Result<(), Failure> {
        if self.buffer.len() + chunk.len() > limit {
            let what = format!("more than {limit} bytes in one piece");
            return Err(Failure::bad_answer(self.address, what));
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    async fn chunk(
        &mut self,
        deadline: Instant,
        what: &str,
        patience: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        loop {
            let Ok(frame) = timeout_at(deadline, self.body.frame()).await else {
                return Err(Failure::timeout(self.address, what, patience));
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::client(self.address, &error)),
                // Trailers carry nothing that is used here.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
