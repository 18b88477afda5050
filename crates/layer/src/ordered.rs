//! Work that is done on all processors and comes back in the order in which it was given.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Most threads of one stream: more would wait for the disk.
const MOST: usize = 8;

/// What a thread is given: a job, and where its result goes.
type Order<J, R> = (J, SyncSender<io::Result<R>>);

struct Threads<J, R> {
    orders: Sender<Order<J, R>>,
    count: usize,
}

/// Jobs of a stream under way. Threads are started with the first job and end with the stream.
pub(crate) struct Ordered<J, R> {
    name: &'static str,
    work: fn(J) -> io::Result<R>,
    threads: Option<Threads<J, R>>,
    waiting: VecDeque<Receiver<io::Result<R>>>,
}

impl<J: Send + 'static, R: Send + 'static> Ordered<J, R> {
    pub(crate) fn new(name: &'static str, work: fn(J) -> io::Result<R>) -> Self {
        Self { name, work, threads: None, waiting: VecDeque::new() }
    }

    fn start(&self) -> Threads<J, R> {
        let (orders, queue) = channel::<Order<J, R>>();
        let queue = Arc::new(Mutex::new(queue));
        let wanted = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let work = self.work;
        let run = |queue: Arc<Mutex<Receiver<Order<J, R>>>>| {
            move || loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((job, reply)) = next else { return };
                // Nobody waits for a stream that was given up.
                let _ = reply.send(work(job));
            }
        };
        let spawn = |_: &usize| {
            let builder = std::thread::Builder::new().name(self.name.into());
            builder.spawn(run(Arc::clone(&queue))).is_ok()
        };
        let count = (0..wanted).filter(spawn).count();
        Threads { orders, count }
    }

    /// Gives a job; it is done here and now where no thread can be had.
    pub(crate) fn submit(&mut self, job: J) -> io::Result<()> {
        if self.threads.is_none() {
            self.threads = Some(self.start());
        }
        let (reply, answer) = sync_channel(1);
        match &self.threads {
            Some(Threads { orders, count: 1.. }) => orders.send((job, reply)).map_err(|_| self.ended())?,
            _ => drop(reply.send((self.work)(job))),
        }
        self.waiting.push_back(answer);
        Ok(())
    }

    /// Whether results should be taken before the next job is given.
    pub(crate) fn is_full(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| self.waiting.len() > 2 * threads.count)
    }

    /// The result of the oldest job; `None` when there is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<R>> {
        match self.waiting.pop_front() {
            Some(answer) => answer.recv().map_err(|_| self.ended())?.map(Some),
            None => Ok(None),
        }
    }

    fn ended(&self) -> io::Error {
        io::Error::other(format!("a thread of {} has ended", self.name))
    }
}
