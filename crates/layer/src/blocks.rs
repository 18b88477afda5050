//! Gzip on all processors: the stream is cut into blocks that are compressed side by side.
//!
//! Blocks have a fixed size and know nothing of each other, so that the bytes are the same with any number of
//! threads. What comes out is one gzip member; every reader takes it. It is less than a hundredth larger than
//! a stream that was never cut.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

const BLOCK: usize = 1 << 20;
/// Most threads of one stream: more would wait for the disk.
const MOST: usize = 8;
/// No name, no time, no system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

struct Job {
    bytes: Vec<u8>,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Threads that compress blocks; they end with the stream.
struct Pool {
    jobs: Sender<Job>,
    threads: usize,
}

impl Pool {
    fn start(level: Compression) -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let wanted = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let work = |queue: Arc<Mutex<Receiver<Job>>>| {
            move || loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                // Nobody waits for a stream that was given up.
                let _ = job.reply.send(deflate(&job.bytes, level, FlushCompress::Sync));
            }
        };
        let spawn = |_: &usize| {
            let builder = std::thread::Builder::new().name("gzip".into());
            builder.spawn(work(Arc::clone(&queue))).is_ok()
        };
        let threads = (0..wanted).filter(spawn).count();
        Self { jobs, threads }
    }
}

/// A gzip stream into `W`.
pub(crate) struct Blocks<W: Write> {
    writer: W,
    level: Compression,
    crc: Crc,
    buffer: Vec<u8>,
    begun: bool,
    /// Started with the second block: most layers have one.
    pool: Option<Pool>,
    waiting: VecDeque<Receiver<io::Result<Vec<u8>>>>,
}

impl<W: Write> Blocks<W> {
    pub(crate) fn new(writer: W, level: Compression) -> Self {
        let (crc, waiting) = (Crc::new(), VecDeque::new());
        Self { writer, level, crc, buffer: Vec::new(), begun: false, pool: None, waiting }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.write_all(&HEADER)?;
        }
        Ok(())
    }

    /// Hands a full block over, and writes what is done while too many are under way.
    fn submit(&mut self) -> io::Result<()> {
        self.begin()?;
        let bytes = std::mem::take(&mut self.buffer);
        let level = self.level;
        let pool = self.pool.get_or_insert_with(|| Pool::start(level));
        if pool.threads == 0 {
            let done = deflate(&bytes, level, FlushCompress::Sync)?;
            return self.writer.write_all(&done);
        }
        let most = 2 * pool.threads;
        let (reply, answer) = sync_channel(1);
        pool.jobs
            .send(Job { bytes, reply })
            .map_err(|_| io::Error::other("the threads of gzip have ended"))?;
        self.waiting.push_back(answer);
        while self.waiting.len() > most {
            self.write_next()?;
        }
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(answer) = self.waiting.pop_front() else { return Ok(()) };
        let block = answer.recv().map_err(|_| io::Error::other("a thread of gzip has ended"))??;
        self.writer.write_all(&block)
    }

    fn drain(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write_next()?;
        }
        Ok(())
    }

    /// Writes the end and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.begin()?;
        self.drain()?;
        let last = deflate(&self.buffer, self.level, FlushCompress::Finish)?;
        self.writer.write_all(&last)?;
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.crc.update(&bytes[..taken]);
        if self.buffer.len() == BLOCK {
            self.submit()?;
        }
        Ok(taken)
    }

    /// Writes all whole blocks. A block that is not full waits: where it is cut decides its bytes.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.writer.flush()
    }
}

/// One block by itself, ended at a byte's border or for good.
fn deflate(bytes: &[u8], level: Compression, flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut packer = Compress::new(level, false);
    let mut out = Vec::with_capacity(bytes.len() / 2 + 64);
    loop {
        let rest = usize::try_from(packer.total_in()).ok().and_then(|done| bytes.get(done..));
        let status = packer.compress_vec(rest.unwrap_or_default(), &mut out, flush)?;
        let all_in = packer.total_in() == bytes.len() as u64;
        let room = out.len() < out.capacity();
        match (status, flush) {
            (Status::StreamEnd, _) => return Ok(out),
            // With room left, nothing of it is still inside.
            (_, FlushCompress::Sync) if all_in && room => return Ok(out),
            _ => out.reserve(BLOCK / 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn packed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut packer = Blocks::new(Vec::new(), Compression::new(6));
        for piece in bytes.chunks(piece) {
            packer.write_all(piece).unwrap();
        }
        packer.finish().unwrap()
    }

    #[test]
    fn any_length_comes_back_and_the_pieces_do_not_show() {
        // Words and noise, so that there are matches, literals and stored blocks.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..BLOCK + 4321).map(|_| next()).collect();
        let words = b"the same words again and again ".repeat(3 * BLOCK / 31);
        let all = [words, noise].concat();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, all.len()] {
            let bytes = &all[..length];
            let made = packed(bytes, 70_001);
            assert!(made == packed(bytes, BLOCK), "{length}");
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&made[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
        }
    }
}
