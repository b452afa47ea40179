//! What ranks say to each other: lines of words between tabs.

use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Cause;

/// The first word of a connection: the protocol and its version.
const HELLO: &str = "truing-control-2";
/// The first word of a connection between two ranks that carries the values of collectives.
const LINK: &str = "truing-link-1";
/// No line is longer, in bytes. The longest lists the addresses of all ranks.
const LONGEST_LINE: u64 = 1 << 16;
/// The first line of a connection comes in no more pieces. A rank sends it as one.
const MOST_PIECES: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Hello {
        rank: usize,
        world_size: usize,
        job: String,
        token: String,
        /// Where the rank waits for links; 0 where there are none.
        link_port: u16,
        name: String,
    },
    /// All ranks are here. The name is rank 0's, the addresses are those of the other ranks in rank order, as rank 0
    /// sees them.
    Start {
        name: String,
        links: Vec<SocketAddr>,
    },
    Refused {
        reason: String,
    },
    /// The job has started with all its ranks.
    Late,
    /// The first line of a link.
    Link {
        from: usize,
        to: usize,
        token: String,
    },
    /// The answer to it.
    Linked,
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
pub(crate) enum Unread {
    /// The other side is gone, or does not speak this protocol.
    Closed,
    /// Nothing came in time.
    Silent,
}

impl Message {
    fn to_line(&self) -> String {
        let words = match self {
            Self::Hello { rank, world_size, job, token, link_port, name } => {
                let numbers = [*rank, *world_size, usize::from(*link_port)].map(|number| number.to_string());
                let [rank, world_size, link_port] = numbers;
                vec![HELLO.to_owned(), rank, world_size, job.clone(), token.clone(), link_port, name.clone()]
            }
            Self::Start { name, links } => {
                let links = links.iter().map(ToString::to_string);
                ["start".to_owned(), name.clone()].into_iter().chain(links).collect()
            }
            Self::Refused { reason } => vec!["refused".to_owned(), reason.clone()],
            Self::Late => vec!["late".to_owned()],
            Self::Link { from, to, token } => {
                vec![LINK.to_owned(), from.to_string(), to.to_string(), token.clone()]
            }
            Self::Linked => vec!["linked".to_owned()],
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
        let line = line.strip_suffix('\n')?;
        // No rank sends them, and what strangers send may end in a message on a terminal.
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return None;
        }
        let words: Vec<&str> = line.split('\t').collect();
        Some(match words[..] {
            [HELLO, rank, world_size, job, token, link_port, name] => Self::Hello {
                rank: rank.parse().ok()?,
                world_size: world_size.parse().ok()?,
                job: job.to_owned(),
                token: token.to_owned(),
                link_port: link_port.parse().ok()?,
                name: name.to_owned(),
            },
            ["start", name, ref links @ ..] => Self::Start {
                name: name.to_owned(),
                links: links.iter().map(|link| link.parse().ok()).collect::<Option<_>>()?,
            },
            ["refused", reason] => Self::Refused { reason: reason.to_owned() },
            ["late"] => Self::Late,
            [LINK, from, to, token] => {
                Self::Link { from: from.parse().ok()?, to: to.parse().ok()?, token: token.to_owned() }
            }
            ["linked"] => Self::Linked,
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
    pub(crate) fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(self.to_line().as_bytes())
    }

    /// Waits for the next one, as long as the stream's timeout allows.
    pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> Result<Self, Unread> {
        let mut line = String::new();
        match reader.by_ref().take(LONGEST_LINE).read_line(&mut line) {
            Ok(_) => Self::parse(&line).ok_or(Unread::Closed),
            Err(error) => Err(unread(&error)),
        }
    }

    /// Reads the first line of a connection, at whose other end anybody may be. It is given up after a few pieces, each
    /// of which the stream's timeout limits: a byte now and then does not keep this rank from the others.
    pub(crate) fn read_first(reader: &mut impl BufRead) -> Result<Self, Unread> {
        let mut line = Vec::new();
        for _ in 0..MOST_PIECES {
            let piece = match reader.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(unread(&error)),
            };
            let end = piece.iter().position(|byte| *byte == b'\n').map(|place| place + 1);
            let n_bytes = end.unwrap_or(piece.len());
            line.extend_from_slice(&piece[..n_bytes]);
            reader.consume(n_bytes);
            if end.is_some() || n_bytes == 0 {
                break;
            }
        }
        String::from_utf8(line).ok().and_then(|line| Self::parse(&line)).ok_or(Unread::Closed)
    }
}

fn unread(error: &io::Error) -> Unread {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Unread::Silent,
        _ => Unread::Closed,
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
        let (job, token, link_port) = ("ab12".to_owned(), String::new(), 40_000);
        let links = vec!["10.0.0.7:5".parse().unwrap(), "[fe80::1]:65535".parse().unwrap()];
        let mut messages = vec![
            Message::Hello { rank: 3, world_size: 4, job, token, link_port, name: name() },
            Message::Start { name: name(), links },
            Message::Start { name: name(), links: Vec::new() },
            Message::Refused { reason: "rank 1 came twice".to_owned() },
            Message::Late,
            Message::Link { from: 2, to: 1, token: "secret".to_owned() },
            Message::Linked,
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
        let line = Message::Start { name: "a\nb\tc".to_owned(), links: Vec::new() }.to_line();
        assert_eq!(line, "start\ta b c\n");
    }

    #[test]
    fn other_lines_are_no_messages() {
        for line in [
            "",
            "beat",
            "GET / HTTP/1.1\r\n",
            "left\t256\n",
            "left\n",
            "lost\t1\tgone\tname\n",
            "start\tname\tnowhere\n",
            "refused\ta terminal is \u{1b}[2Jcleared\n",
        ] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
    }

    /// Reads a first line of which one piece after another comes, of `n_bytes` each.
    fn first_in_pieces(line: &str, n_bytes: usize) -> Result<Message, Unread> {
        Message::read_first(&mut BufReader::with_capacity(n_bytes, line.as_bytes()))
    }

    #[test]
    fn a_first_line_comes_in_few_pieces() {
        let left = Message::Left { status: 75 };
        let line = left.to_line();
        for n_bytes in [line.len() / MOST_PIECES, 3, line.len(), 100] {
            assert_eq!(first_in_pieces(&line, n_bytes), Ok(left.clone()), "{n_bytes}");
        }
        assert_eq!(first_in_pieces("left\t175\n", 1), Err(Unread::Closed));
        assert_eq!(first_in_pieces("left\t75", 100), Err(Unread::Closed));
        assert_eq!(first_in_pieces("", 100), Err(Unread::Closed));
        let two = "late\nbeat\n";
        let mut reader = BufReader::new(two.as_bytes());
        assert_eq!(Message::read_first(&mut reader), Ok(Message::Late));
        assert_eq!(Message::read_first(&mut reader), Ok(Message::Beat));
    }
}
