//! What ranks say to each other: lines of words between tabs.

use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use super::Cause;

/// The first word of a connection: the protocol and its version.
const HELLO: &str = "truing-control-1";
/// No line is longer, in bytes.
const LONGEST_LINE: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Hello {
        rank: usize,
        world_size: usize,
        job: String,
        name: String,
    },
    /// All ranks are here; the name is rank 0's.
    Start {
        name: String,
    },
    Refused {
        reason: String,
    },
    Beat,
    Left {
        status: u8,
    },
    Panicked,
    Lost {
        rank: usize,
        cause: Cause,
        name: String,
    },
}

/// Why no message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// The other side is gone, or does not speak this protocol.
    Closed,
    /// Nothing came in time.
    Silent,
}

impl Message {
    fn to_line(&self) -> String {
        let words = match self {
            Self::Hello { rank, world_size, job, name } => {
                vec![HELLO.to_owned(), rank.to_string(), world_size.to_string(), job.clone(), name.clone()]
            }
            Self::Start { name } => vec!["start".to_owned(), name.clone()],
            Self::Refused { reason } => vec!["refused".to_owned(), reason.clone()],
            Self::Beat => vec!["beat".to_owned()],
            Self::Left { status } => vec!["left".to_owned(), status.to_string()],
            Self::Panicked => vec!["panicked".to_owned()],
            Self::Lost { rank, cause, name } => {
                vec!["lost".to_owned(), rank.to_string(), cause_word(*cause), name.clone()]
            }
        };
        let clean = |word: &String| word.replace(|c: char| c.is_control(), " ");
        words.iter().map(clean).collect::<Vec<_>>().join("\t") + "\n"
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_suffix('\n')?.split('\t').collect();
        Some(match words[..] {
            [HELLO, rank, world_size, job, name] => Self::Hello {
                rank: rank.parse().ok()?,
                world_size: world_size.parse().ok()?,
                job: job.to_owned(),
                name: name.to_owned(),
            },
            ["start", name] => Self::Start { name: name.to_owned() },
            ["refused", reason] => Self::Refused { reason: reason.to_owned() },
            ["beat"] => Self::Beat,
            ["left", status] => Self::Left { status: status.parse().ok()? },
            ["panicked"] => Self::Panicked,
            ["lost", rank, cause, name] => {
                Self::Lost { rank: rank.parse().ok()?, cause: cause_of(cause)?, name: name.to_owned() }
            }
            _ => return None,
        })
    }

    /// Sends it.
    pub(super) fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(self.to_line().as_bytes())
    }

    /// Waits for the next one, as long as the stream's timeout allows.
    pub(super) fn read(reader: &mut BufReader<TcpStream>) -> Result<Self, Unread> {
        let mut line = String::new();
        match reader.by_ref().take(LONGEST_LINE).read_line(&mut line) {
            Ok(_) => Self::parse(&line).ok_or(Unread::Closed),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Unread::Silent)
            }
            Err(_) => Err(Unread::Closed),
        }
    }
}

fn cause_word(cause: Cause) -> String {
    match cause {
        Cause::Ended { status } => status.to_string(),
        Cause::Panicked => "panicked".to_owned(),
        Cause::Closed => "closed".to_owned(),
        Cause::Silent => "silent".to_owned(),
    }
}

fn cause_of(word: &str) -> Option<Cause> {
    Some(match word {
        "panicked" => Cause::Panicked,
        "closed" => Cause::Closed,
        "silent" => Cause::Silent,
        status => Cause::Ended { status: status.parse().ok()? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let name = || "host a, process 7".to_owned();
        let causes = [Cause::Ended { status: 3 }, Cause::Panicked, Cause::Closed, Cause::Silent];
        let mut messages = vec![
            Message::Hello { rank: 3, world_size: 4, job: "ab12".to_owned(), name: name() },
            Message::Start { name: name() },
            Message::Refused { reason: "rank 1 came twice".to_owned() },
            Message::Beat,
            Message::Left { status: 75 },
            Message::Panicked,
        ];
        messages.extend(causes.map(|cause| Message::Lost { rank: 2, cause, name: name() }));
        for message in messages {
            assert_eq!(Message::parse(&message.to_line()), Some(message));
        }
    }

    #[test]
    fn a_name_cannot_end_its_line() {
        let line = Message::Start { name: "a\nb\tc".to_owned() }.to_line();
        assert_eq!(line, "start\ta b c\n");
    }

    #[test]
    fn other_lines_are_no_messages() {
        for line in ["", "beat", "GET / HTTP/1.1\r\n", "left\t256\n", "left\n", "lost\t1\tgone\tname\n"] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
    }
}
