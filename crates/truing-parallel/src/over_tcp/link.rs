//! The connection with one other rank. What is sent goes through a queue to a thread that writes it; what is received
//! is read by the thread that needs it.

use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes before the values of a frame: the group's tag and the number of bytes of values, little-endian.
const N_HEADER: usize = 8;
/// Frames that wait for the thread that writes. Ranks receive a piece of a message before they send the next one, so a
/// full queue means that the other rank is behind this one. The rank furthest behind therefore never waits for a queue,
/// and no circle of ranks can.
const N_QUEUED: usize = 1;

/// Why a frame did not come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The other rank is gone.
    Lost,
    /// Nothing came within the time.
    Silent,
    /// A frame of another group, or of another length.
    Other,
}

/// The link with one other rank.
pub(super) struct Link {
    /// Where frames are queued, until the link is closed.
    frames: Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    reader: Mutex<BufReader<TcpStream>>,
    /// The connection, without a lock: to break it while somebody reads.
    stream: Arc<TcpStream>,
}

impl Link {
    /// Starts to write to a connection whose first lines have been exchanged. `longest_wait` limits a wait for bytes.
    pub(super) fn start(
        rank: usize,
        reader: BufReader<TcpStream>,
        longest_wait: Option<Duration>,
    ) -> io::Result<Self> {
        let stream = reader.get_ref();
        stream.set_read_timeout(longest_wait)?;
        stream.set_write_timeout(longest_wait)?;
        let stream = Arc::new(stream.try_clone()?);
        let (frames, queue) = sync_channel(N_QUEUED);
        let to = Arc::clone(&stream);
        let writer =
            thread::Builder::new().name(format!("link-{rank}")).spawn(move || write_frames(&to, &queue))?;
        Ok(Self {
            frames: Mutex::new(Some(frames)),
            writer: Mutex::new(Some(writer)),
            reader: Mutex::new(reader),
            stream,
        })
    }

    /// Queues a frame; waits where too many are queued.
    pub(super) fn send(&self, tag: u32, bytes: &[u8]) -> Result<(), Broken> {
        let n_bytes = u32::try_from(bytes.len()).expect("pieces are shorter than 4 GiB");
        let mut frame = Vec::with_capacity(N_HEADER + bytes.len());
        frame.extend(tag.to_le_bytes());
        frame.extend(n_bytes.to_le_bytes());
        frame.extend_from_slice(bytes);
        // Collectives run one after another, so nobody else waits for this lock.
        let frames = lock(&self.frames);
        frames.as_ref().ok_or(Broken::Lost)?.send(frame).map_err(|_| Broken::Lost)
    }

    /// Waits for a frame that fills `bytes`.
    pub(super) fn receive(&self, tag: u32, bytes: &mut [u8]) -> Result<(), Broken> {
        let mut reader = lock(&self.reader);
        let mut header = [0; N_HEADER];
        reader.read_exact(&mut header).map_err(|error| broken(&error))?;
        let [t0, t1, t2, t3, n0, n1, n2, n3] = header;
        let found_tag = u32::from_le_bytes([t0, t1, t2, t3]);
        let n_bytes = u32::from_le_bytes([n0, n1, n2, n3]);
        if found_tag != tag || n_bytes as usize != bytes.len() {
            return Err(Broken::Other);
        }
        reader.read_exact(bytes).map_err(|error| broken(&error))
    }

    /// Writes what is queued and ends the thread that writes.
    pub(super) fn close(&self) {
        drop(lock(&self.frames).take());
        if let Some(writer) = lock(&self.writer).take() {
            // It has written all, or the other rank is gone.
            let _ = writer.join();
        }
    }

    /// Breaks the link: both ranks find it lost.
    pub(super) fn shut_down(&self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn write_frames(mut stream: &TcpStream, queue: &Receiver<Vec<u8>>) {
    while let Ok(frame) = queue.recv() {
        if stream.write_all(&frame).is_err() {
            // The queue ends with this thread: the next frame finds the link lost.
            return;
        }
    }
}

fn broken(error: &io::Error) -> Broken {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::Silent,
        _ => Broken::Lost,
    }
}

// What a lock guards is whole after a panic too: the link is then not used further.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
