//! The shim: parent of one container, from its launch until nothing of it is left to do.
//!
//! One thread, one `poll`. Everything that waits is a descriptor: streams, clients, engines, and the pidfds of
//! children. The order within a round is output first, then requests, then exits, so that what a process
//! wrote is known before its end is.

use crate::control::Control;
use crate::courier::Courier;
use crate::exit::Exit;
use crate::launcher::Surroundings;
use crate::protocol::{ExecSpec, Failure, Launch, Reply, Request};
use crate::session::{CHUNK, Part, Session};
use crate::start::{self, Container};
use crate::wire::{self, Decoder, encode};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use yare_errdefs::{Class, Error};
use yare_logs::Writer;
use yare_sys::process::{self, Fork};

/// How long output is waited for after its process ended, when something else holds the pipe open.
const DRAIN: Duration = Duration::from_secs(2);

/// How long an engine may take to read the last replies.
const FLUSH: Duration = Duration::from_secs(10);

/// How long no connection is accepted after one could not be, for lack of descriptors.
const DEAF: Duration = Duration::from_millis(200);

/// How long nothing must have happened before the shim makes itself small: no short run shall wait for that.
const SETTLED: Duration = Duration::from_millis(300);

const SIGKILL: i32 = 9;

/// Runs the shim on its launch stream; gives the exit status of the process.
pub(crate) fn run(control: UnixStream, surroundings: Surroundings) -> i32 {
    let mut decoder = Decoder::new();
    let launch = match read_launch(&control, &mut decoder) {
        Ok(Some(launch)) => launch,
        Ok(None) => return 0,
        Err(error) => {
            let error = Error::internal("shim: cannot read the launch").caused_by(error);
            return refuse(&control, Failure::new(&error));
        }
    };
    match start::start(launch.0, launch.1, &surroundings) {
        Ok(container) => {
            drop(surroundings);
            match container.pidfd.try_clone() {
                Ok(pidfd) => Supervisor::new(container, pidfd, control, decoder).run(),
                Err(error) => refuse(&control, give_up(&container, error)),
            }
        }
        Err(failure) => refuse(&control, failure),
    }
}

/// `None` when the engine left without a word.
fn read_launch(control: &UnixStream, decoder: &mut Decoder) -> io::Result<Option<(Launch, Vec<OwnedFd>)>> {
    loop {
        if let Some(launch) = decoder.next()? {
            return Ok(Some(launch));
        }
        if decoder.receive(control)? == 0 {
            return Ok(None);
        }
    }
}

/// Ends a container that its engine would never hear of.
fn give_up(container: &Container, error: io::Error) -> Failure {
    let _ = container.group.kill();
    let _ = process::pidfd_send_signal(&container.pidfd, SIGKILL);
    let _ = process::wait(&container.pidfd, true);
    let _ = container.group.remove();
    internal("cannot pass the pidfd on", error)
}

fn refuse(control: &UnixStream, failure: Failure) -> i32 {
    let _ = wire::send_all(control.as_fd(), &encode(&Reply::Failed(failure)), &[]);
    1
}

#[derive(Debug)]
struct Supervisor {
    container: Container,
    execs: Vec<Exec>,
    controls: Vec<Control>,
    next_control: u64,
    /// The child that compresses a rotated log file.
    compression: Option<OwnedFd>,
    /// No connection is accepted until then.
    deaf_until: Option<Instant>,
    phase: Phase,
    /// For reading; empty while nothing happens.
    buffer: Vec<u8>,
    /// Whether memory was given back since something last happened.
    small: bool,
}

/// How far the container's life has come.
#[derive(Debug)]
enum Phase {
    Running,
    /// Process 1 has ended, its output may still be coming.
    Draining {
        exit: Exit,
        until: Instant,
    },
    /// Everybody has been told; clients still read, for as long as they stay connected: a pager may keep a
    /// user busy for an hour. Engines that do not read their replies are waited for until then.
    Delivering {
        exit: Exit,
        until: Instant,
    },
}

/// A further process in the container.
#[derive(Debug)]
struct Exec {
    id: String,
    pidfd: OwnedFd,
    session: Session,
    /// The connection that is told of its end.
    control: u64,
    phase: ExecPhase,
}

#[derive(Debug, Clone, Copy)]
enum ExecPhase {
    Running,
    Draining {
        code: i32,
        until: Instant,
    },
    /// Its engine has been told; its client still reads.
    Delivering,
}

/// Whose descriptor an event is about.
#[derive(Debug, Clone, Copy)]
enum Token {
    Container(Part),
    Exec(usize, Part),
    Control(usize),
    Listener,
    ContainerProcess,
    ExecProcess(usize),
    Compression,
    Courier,
}

impl Supervisor {
    fn new(container: Container, pidfd: OwnedFd, stream: UnixStream, decoder: Decoder) -> Self {
        let mut supervisor = Self {
            container,
            execs: Vec::new(),
            controls: Vec::new(),
            next_control: 0,
            compression: None,
            deaf_until: None,
            phase: Phase::Running,
            buffer: Vec::new(),
            small: false,
        };
        supervisor.add_control(stream, decoder, true);
        let started = Reply::Started { pid: supervisor.container.pid };
        if let Some(control) = supervisor.controls.last_mut() {
            control.reply(&started, vec![pidfd]);
        }
        if let Err(error) = start::write_pids(&supervisor.container.lock, supervisor.container.pid) {
            supervisor.note("cannot write the pid file", error);
        }
        process::set_title(&format!("yare-shim {}", supervisor.container.id));
        supervisor
    }

    fn run(mut self) -> i32 {
        loop {
            match self.wait() {
                Ok(events) if events.is_empty() => self.become_small(),
                Ok(events) => {
                    self.small = false;
                    self.buffer.resize(CHUNK, 0);
                    events.into_iter().for_each(|(token, events)| self.handle(token, events));
                }
                Err(error) => {
                    self.note("cannot wait for events", error);
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            self.end_round();
            if self.is_done() {
                return 0;
            }
        }
    }

    /// Most containers are silent most of their time: what the shim then holds is what a host can run of them.
    fn become_small(&mut self) {
        if !std::mem::replace(&mut self.small, true) {
            self.buffer = Vec::new();
            yare_sys::memory::shed();
        }
    }

    fn note(&mut self, what: &str, error: impl std::fmt::Display) {
        self.container.journal.note(&format!("{what}: {error}"));
    }

    fn wait(&self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = Vec::new();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut add = |token, fd| {
            tokens.push(token);
            fds.push(fd);
        };
        self.container
            .session
            .register(self.container.log.is_full(), |part, fd| add(Token::Container(part), fd));
        for (index, exec) in self.execs.iter().enumerate() {
            exec.session.register(false, |part, fd| add(Token::Exec(index, part), fd));
        }
        for (index, control) in self.controls.iter().enumerate() {
            add(Token::Control(index), control.poll());
        }
        if !matches!(self.phase, Phase::Delivering { .. }) && self.deaf_until.is_none() {
            add(Token::Listener, PollFd::new(&self.container.listener, PollFlags::IN));
        }
        if matches!(self.phase, Phase::Running) {
            add(Token::ContainerProcess, PollFd::new(&self.container.pidfd, PollFlags::IN));
        }
        for (index, exec) in self.execs.iter().enumerate() {
            if matches!(exec.phase, ExecPhase::Running) {
                add(Token::ExecProcess(index), PollFd::new(&exec.pidfd, PollFlags::IN));
            }
        }
        if let Some(child) = &self.compression {
            add(Token::Compression, PollFd::new(child, PollFlags::IN));
        }
        if let Some(courier) = &self.container.log.courier {
            courier.register(|fd| add(Token::Courier, fd));
        }
        let timeout = self.timeout();
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref()))?;
        let ready = tokens.into_iter().zip(&fds).map(|(token, fd)| (token, fd.revents()));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    /// Until the next deadline.
    fn timeout(&self) -> Option<Timespec> {
        let own = match &self.phase {
            Phase::Running => None,
            // With the outputs read, only the log is waited for.
            Phase::Draining { until, .. } => {
                let log = self.container.log.courier.as_ref().and_then(Courier::until);
                log.or(Some(*until))
            }
            // Once it is past, only clients are waited for.
            Phase::Delivering { until, .. } => Some(*until).filter(|until| *until > Instant::now()),
        };
        let execs = self.execs.iter().filter_map(|exec| match exec.phase {
            ExecPhase::Draining { until, .. } => Some(until),
            ExecPhase::Running | ExecPhase::Delivering => None,
        });
        let settled = (!self.small).then(|| deadline(SETTLED));
        let left = own.into_iter().chain(execs).chain(settled).chain(self.deaf_until).min()?;
        let left = left.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }

    fn handle(&mut self, token: Token, events: PollFlags) {
        match token {
            Token::Container(part) => {
                let Container { session, log, journal, .. } = &mut self.container;
                session.handle(part, events, &mut self.buffer, &mut |stream, bytes| {
                    log.write(journal, stream, bytes);
                });
            }
            Token::Exec(index, part) => {
                let session = &mut self.execs[index].session;
                session.handle(part, events, &mut self.buffer, &mut |_, _| {});
            }
            Token::Control(index) => {
                for (request, descriptors) in self.controls[index].handle(events) {
                    self.answer(index, request, descriptors);
                }
            }
            Token::Listener => match self.container.listener.accept() {
                Ok((stream, _)) => self.add_control(stream, Decoder::new(), false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // It waits in the queue, and would wake this loop at once again.
                    self.deaf_until = Some(deadline(DEAF));
                    self.note("cannot accept a connection", error);
                }
            },
            Token::ContainerProcess => self.reap_container(),
            Token::ExecProcess(index) => self.reap_exec(index),
            Token::Compression => self.finish_compression(),
            Token::Courier => {
                let Container { log, journal, .. } = &mut self.container;
                log.courier.iter_mut().for_each(|courier| courier.look(journal));
            }
        }
    }

    fn add_control(&mut self, stream: UnixStream, decoder: Decoder, subscribed: bool) {
        self.next_control += 1;
        match Control::new(self.next_control, stream, decoder) {
            Ok(mut control) => {
                control.subscribed = subscribed;
                self.controls.push(control);
            }
            Err(error) => self.note("cannot use a connection", error),
        }
    }

    fn answer(&mut self, index: usize, request: Request, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let result = match request {
            Request::Subscribe => {
                self.controls[index].subscribed = true;
                Ok((self.state(), Vec::new()))
            }
            Request::State => Ok((self.state(), Vec::new())),
            Request::Attach(spec) => self.running().map(|()| {
                if let Some(socket) = descriptors.next() {
                    self.container.session.attach(socket, spec);
                }
                (Reply::Ok, Vec::new())
            }),
            Request::Exec(spec) => self.exec(self.controls[index].id, *spec, descriptors.next()),
            Request::Resize { exec_id, rows, cols } => self.resize(exec_id.as_deref(), rows, cols),
            Request::Signal { exec_id, signal } => self.signal(exec_id.as_deref(), signal),
        };
        let (reply, descriptors) = result.unwrap_or_else(|failure| (Reply::Failed(failure), Vec::new()));
        self.controls[index].reply(&reply, descriptors);
    }

    fn state(&self) -> Reply {
        let exit = match &self.phase {
            Phase::Running | Phase::Draining { .. } => None,
            Phase::Delivering { exit, .. } => Some(exit.clone()),
        };
        let running = self.execs.iter().filter(|exec| matches!(exec.phase, ExecPhase::Running));
        Reply::State { pid: self.container.pid, execs: running.map(|exec| exec.id.clone()).collect(), exit }
    }

    fn running(&self) -> Result<(), Failure> {
        match self.phase {
            Phase::Running => Ok(()),
            _ => Err(conflict(format!("container {} is not running", self.container.id))),
        }
    }

    fn exec(&mut self, control: u64, spec: ExecSpec, socket: Option<OwnedFd>) -> Answer {
        self.running()?;
        if self.execs.iter().any(|exec| exec.id == spec.exec_id) {
            return Err(conflict(format!("exec {} is running already", spec.exec_id)));
        }
        let (running, session) = start::exec(&self.container, &spec, socket)?;
        let copy = running.pidfd.try_clone().map_err(|error| internal("cannot pass the pidfd on", error))?;
        let (id, pidfd) = (spec.exec_id, running.pidfd);
        self.execs.push(Exec { id, pidfd, session, control, phase: ExecPhase::Running });
        Ok((Reply::Started { pid: running.pid }, vec![copy]))
    }

    fn find_exec(&self, id: &str) -> Result<&Exec, Failure> {
        let found = self.execs.iter().find(|exec| exec.id == id);
        found.ok_or_else(|| Failure::new(&Error::not_found(format!("exec {id} is not running"))))
    }

    fn resize(&self, exec_id: Option<&str>, rows: u16, cols: u16) -> Answer {
        let session = match exec_id {
            Some(id) => &self.find_exec(id)?.session,
            None => &self.container.session,
        };
        let console = session.console().ok_or_else(|| conflict("the process has no terminal".into()))?;
        yare_sys::pty::resize(console, rows, cols)
            .map_err(|error| internal("cannot resize the terminal", error))?;
        Ok((Reply::Ok, Vec::new()))
    }

    fn signal(&self, exec_id: Option<&str>, signal: i32) -> Answer {
        let pidfd = match exec_id {
            Some(id) => &self.find_exec(id)?.pidfd,
            None => {
                self.running()?;
                if signal == SIGKILL && !self.container.own_pids {
                    let _ = self.container.group.kill();
                }
                &self.container.pidfd
            }
        };
        match process::pidfd_send_signal(pidfd, signal) {
            Ok(()) => Ok((Reply::Ok, Vec::new())),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Err(conflict("the process has ended".into()))
            }
            Err(error) => Err(internal("cannot send the signal", error)),
        }
    }

    /// Process 1 has ended: the rest of its output, and of the processes that the kernel ended with it, is in
    /// the pipes already.
    fn reap_container(&mut self) {
        let at = yare_logs::time::to_string(Timestamp::now());
        let code = match process::wait(&self.container.pidfd, false) {
            Ok(Some(exit)) => exit.code(),
            Ok(None) => return,
            Err(error) => {
                self.note("cannot learn how the container ended", error);
                255
            }
        };
        if !self.container.own_pids {
            let _ = self.container.group.kill();
        }
        let oom = self.container.group.oom_kills() > 0;
        self.phase = Phase::Draining { exit: Exit { code, oom, at, error: None }, until: deadline(DRAIN) };
        let Container { session, log, journal, .. } = &mut self.container;
        session.drain(&mut self.buffer, &mut |stream, bytes| {
            log.write(journal, stream, bytes);
        });
    }

    fn reap_exec(&mut self, index: usize) {
        let exec = &mut self.execs[index];
        let code = match process::wait(&exec.pidfd, false) {
            Ok(Some(exit)) => exit.code(),
            Ok(None) => return,
            Err(_) => 255,
        };
        exec.phase = ExecPhase::Draining { code, until: deadline(DRAIN) };
        exec.session.drain(&mut self.buffer, &mut |_, _| {});
    }

    /// After each round: writes the log, lets go of who is done, and goes on to the next phases.
    fn end_round(&mut self) {
        self.flush_log();
        self.container.session.sweep();
        self.deaf_until = self.deaf_until.filter(|until| *until > Instant::now());
        self.advance_execs();
        self.controls.retain(|control| !control.is_dead());
        if let Phase::Draining { exit, until } = &self.phase
            && (self.container.session.is_drained() || Instant::now() >= *until)
        {
            let exit = exit.clone();
            if self.close_log() {
                self.announce(exit);
            }
        }
        if self.compression.is_none() {
            self.start_compression();
        }
    }

    fn flush_log(&mut self) {
        let Container { log, journal, .. } = &mut self.container;
        log.flush(journal);
    }

    fn advance_execs(&mut self) {
        let now = Instant::now();
        let controls = &mut self.controls;
        self.execs.retain_mut(|exec| {
            exec.session.sweep();
            if let ExecPhase::Draining { code, until } = exec.phase
                && (exec.session.is_drained() || now >= until)
            {
                exec.session.close_outputs(&mut |_, _| {});
                // Told first, so that who sees the end of the output can ask for the code.
                if let Some(control) = controls.iter_mut().find(|control| control.id == exec.control) {
                    control.reply(&Reply::ExecExited { exec_id: exec.id.clone(), code }, Vec::new());
                }
                exec.session.finish();
                exec.session.sweep();
                exec.phase = ExecPhase::Delivering;
            }
            !matches!(exec.phase, ExecPhase::Delivering) || !exec.session.is_delivered()
        });
    }

    /// Ends the log. `false` as long as something of it is still to be delivered.
    fn close_log(&mut self) -> bool {
        let Container { session, log, journal, .. } = &mut self.container;
        session.close_outputs(&mut |stream, bytes| log.write(journal, stream, bytes));
        log.flush(journal);
        log.courier.as_mut().is_none_or(|courier| courier.close(journal))
    }

    /// All output is in the log: keeps the exit, tells everybody, and cleans up behind the container.
    fn announce(&mut self, mut exit: Exit) {
        if let Some(hooks) = &mut self.container.hooks {
            hooks.stopped(&mut self.container.journal);
        }
        exit.error = self.container.journal.summary();
        if let Err(error) = exit.write(&self.container.run_dir) {
            self.note("cannot keep the exit", error);
        }
        for control in self.controls.iter_mut().filter(|control| control.subscribed) {
            control.reply(&Reply::Exited(exit.clone()), Vec::new());
        }
        self.container.session.finish();
        self.container.session.sweep();
        self.clean_up();
        self.phase = Phase::Delivering { exit, until: deadline(FLUSH) };
    }

    /// From here on another shim may start the same container.
    fn clean_up(&mut self) {
        if let Err(error) = self.container.group.remove() {
            self.note("cannot remove the control group", yare_errdefs::chain(&error));
        }
        drop(self.container.mounts.take());
        let _ = std::fs::remove_file(self.container.run_dir.join(crate::client::SOCKET));
        let unlocked = rustix::fs::flock(&self.container.lock, rustix::fs::FlockOperation::Unlock);
        if let Err(error) = unlocked {
            self.note("cannot release the run directory", error);
        }
    }

    /// Whether nothing is left to do.
    fn is_done(&self) -> bool {
        let Phase::Delivering { until, .. } = &self.phase else { return false };
        let told = self.controls.iter().all(Control::is_flushed) || Instant::now() >= *until;
        told && self.container.session.is_delivered() && self.execs.is_empty() && self.compression.is_none()
    }

    /// Compresses a rotated file in a child at the lowest priority: the container's output goes on meanwhile.
    fn start_compression(&mut self) {
        let Some(work) = self.container.log.file.as_mut().and_then(Writer::compression) else { return };
        match process::fork(0, None) {
            Ok(Fork::Child) => {
                // Nothing else may stay open: it would hold up the end of somebody's stream.
                let kept = process::close_all_but(&[work.descriptor()]);
                let _ = rustix::process::nice(19);
                process::exit_now(i32::from(kept.is_err() || work.run().is_err()))
            }
            Ok(Fork::Parent { pidfd, .. }) => self.compression = Some(pidfd),
            Err(error) => {
                self.note("cannot compress the log", error);
                self.compressed(false);
            }
        }
    }

    fn finish_compression(&mut self) {
        let Some(child) = &self.compression else { return };
        match process::wait(child, false) {
            Ok(None) => return,
            Ok(Some(exit)) => self.compressed(exit.code() == 0),
            Err(_) => self.compressed(false),
        }
        self.compression = None;
    }

    fn compressed(&mut self, success: bool) {
        if let Some(file) = &mut self.container.log.file {
            file.compressed(success);
        }
    }
}

/// A reply with its descriptors.
type Answer = Result<(Reply, Vec<OwnedFd>), Failure>;

fn conflict(message: String) -> Failure {
    Failure::new(&Error::new(Class::Conflict, message))
}

fn internal(message: &str, error: io::Error) -> Failure {
    Failure::new(&Error::internal(format!("shim: {message}")).caused_by(error))
}

fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}
