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
        let words: Vec<&str> = line.strip_suffix('\n')?.split('\t').collect();
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
        ] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
    }
}
