//! The control socket's language: one JSON value a line, [`Query`] in, [`Reply`] out. A connection
//! may carry several questions, one after the other.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use crate::base::query::{Query, Reply};

/// Longest question in bytes; a longer one is answered with an error and ends the connection.
pub const QUESTION_LIMIT: usize = 64 << 10;
/// Longest answer in bytes that a client reads.
pub const ANSWER_LIMIT: usize = 64 << 20;

/// A line that is no question.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("the question is longer than {QUESTION_LIMIT} bytes")]
    TooLong,
    #[error("this is not a question: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("reading: {0}")]
    Io(#[from] io::Error),
}

/// Reads one question; `None` at the end of the connection.
///
/// # Errors
/// After [`LineError::Malformed`] the next line can be read, after the others nothing can.
pub async fn read_question<R: AsyncBufRead + Unpin>(
    reader: &mut R,
) -> Result<Option<Query>, LineError> {
    let mut line = Vec::new();
    let count = reader.take(QUESTION_LIMIT as u64 + 1).read_until(b'\n', &mut line).await?;
    if count == 0 {
        return Ok(None);
    }
    if count > QUESTION_LIMIT {
        return Err(LineError::TooLong);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// An answer as a line.
pub fn encode(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_else(|error| {
        // Replies are plain data; should one fail, the client still gets a line.
        serde_json::json!({ "Error": format!("answer cannot be encoded: {error}") })
            .to_string()
            .into_bytes()
    });
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;
    use crate::base::filter::FlowFilter;

    #[tokio::test]
    async fn questions_are_lines_and_bad_ones_are_told_apart() {
        let text = b"\"Status\"\n{\"Flows\":{\"limit\":5}}\nnonsense\n\"Reload\"\n";
        let mut reader = BufReader::new(&text[..]);
        assert_eq!(read_question(&mut reader).await.expect("one"), Some(Query::Status));
        assert_eq!(
            read_question(&mut reader).await.expect("two"),
            Some(Query::Flows { limit: 5, filter: FlowFilter::default() })
        );
        assert!(matches!(read_question(&mut reader).await, Err(LineError::Malformed(_))));
        assert_eq!(read_question(&mut reader).await.expect("four"), Some(Query::Reload));
        assert_eq!(read_question(&mut reader).await.expect("end"), None);
    }

    #[tokio::test]
    async fn endless_line_is_refused_at_the_bound() {
        let text = vec![b'x'; QUESTION_LIMIT + 10];
        let mut reader = BufReader::new(&text[..]);
        assert!(matches!(read_question(&mut reader).await, Err(LineError::TooLong)));
    }

    #[test]
    fn answer_is_one_line() {
        let line = encode(&Reply::Text("a\nb".to_owned()));
        assert_eq!(line, b"{\"Text\":\"a\\nb\"}\n");
        let back: Reply = serde_json::from_slice(&line).expect("decodes");
        assert_eq!(back, Reply::Text("a\nb".to_owned()));
    }
}
