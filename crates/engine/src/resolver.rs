//! The engine's side of the resolver of user-defined networks.
//!
//! The process is started when the first container needs it. What it was told is kept here, with copies of the
//! sockets, so that another one can take its place should it die. When the engine dies, it goes on; the next
//! engine makes new sockets in the namespaces of the containers that run, and ends it.

use crate::companion;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Weak};
use yare_errdefs::{Error, Result};
use yare_net::ResolverSockets;
use yare_resolver::{Client, Member, Order, Process};

/// What its notes are called.
pub(crate) const NAME: &str = "resolver";

/// The resolver of an engine.
#[derive(Debug)]
pub(crate) struct Resolver {
    state: Mutex<State>,
    exec_root: PathBuf,
    myself: Weak<Self>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    clients: BTreeMap<String, (Client, ResolverSockets)>,
    members: BTreeMap<(String, String), Member>,
}

impl Resolver {
    /// Nobody needs one yet.
    pub(crate) fn new(exec_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            state: Mutex::default(),
            exec_root: exec_root.to_owned(),
            myself: Weak::clone(myself),
        })
    }

    /// Makes a container known on its networks, and answers it at its sockets.
    pub(crate) fn serve(&self, client: Client, members: Vec<Member>, sockets: ResolverSockets) -> Result<()> {
        let mut state = self.state.lock();
        for member in members {
            self.tell(&mut state, &Order::Join(member.clone()))?;
            state.members.insert((member.network.clone(), member.id.clone()), member);
        }
        self.start(&mut state)?;
        let order = Order::Serve(client.clone());
        let told = state
            .process
            .as_ref()
            .map(|process| process.tell(&order, &[sockets.udp.as_fd(), sockets.tcp.as_fd()]));
        state.clients.insert(client.id.clone(), (client, sockets));
        match told {
            Some(Err(_)) => self.replace(&mut state),
            _ => Ok(()),
        }
    }

    /// Whether a container is answered.
    pub(crate) fn serves(&self, id: &str) -> bool {
        self.state.lock().clients.contains_key(id)
    }

    /// Notes other networks of a container that is answered, and its places there.
    pub(crate) fn change(&self, client: Client, members: Vec<Member>) -> Result<()> {
        let mut state = self.state.lock();
        let id = client.id.clone();
        let left: Vec<_> = state
            .members
            .keys()
            .filter(|(network, member)| {
                *member == id && !members.iter().any(|member| member.network == *network)
            })
            .cloned()
            .collect();
        for (network, id) in left {
            state.members.remove(&(network.clone(), id.clone()));
            self.tell(&mut state, &Order::Leave { network, id })?;
        }
        for member in members {
            self.tell(&mut state, &Order::Join(member.clone()))?;
            state.members.insert((member.network.clone(), member.id.clone()), member);
        }
        let Some((known, _)) = state.clients.get_mut(&id) else { return Ok(()) };
        *known = client.clone();
        self.tell(&mut state, &Order::Change(client))
    }

    /// Forgets a container that has ended.
    pub(crate) fn forget(&self, id: &str) {
        let mut state = self.state.lock();
        let keys: Vec<_> = state.members.keys().filter(|(_, member)| member == id).cloned().collect();
        let mut orders: Vec<_> = keys
            .iter()
            .map(|(network, id)| Order::Leave { network: network.clone(), id: id.clone() })
            .collect();
        keys.iter().for_each(|key| drop(state.members.remove(key)));
        if state.clients.remove(id).is_some() {
            orders.push(Order::Forget { id: id.to_owned() });
        }
        for order in orders {
            if let Err(error) = self.tell(&mut state, &order) {
                tracing::warn!(container = id, error = yare_errdefs::chain(&error), "telling the resolver");
            }
        }
    }

    /// Tells the process something, if there is one; one that does not listen is replaced, and told everything.
    fn tell(&self, state: &mut State, order: &Order) -> Result<()> {
        match state.process.as_ref().map(|process| process.tell(order, &[])) {
            Some(Err(_)) => self.replace(state),
            _ => Ok(()),
        }
    }

    /// Starts a process unless there is one, and tells it what is known.
    fn start(&self, state: &mut State) -> Result<()> {
        if state.process.is_some() {
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Error::unavailable("cannot start the resolver of networks").caused_by(error)
        };
        let (process, child) = Process::start(&self.exec_root).map_err(failed)?;
        self.watch(child);
        companion::note(&self.exec_root, NAME, process.pid());
        for member in state.members.values() {
            process.tell(&Order::Join(member.clone()), &[]).map_err(failed)?;
        }
        for (client, sockets) in state.clients.values() {
            let descriptors = [sockets.udp.as_fd(), sockets.tcp.as_fd()];
            process.tell(&Order::Serve(client.clone()), &descriptors).map_err(failed)?;
        }
        state.process = Some(process);
        Ok(())
    }

    fn replace(&self, state: &mut State) -> Result<()> {
        if let Some(process) = state.process.take() {
            companion::end(process.pid());
        }
        self.start(state)
    }

    /// Waits for the end of a process, and starts another one if containers need it.
    fn watch(&self, child: Child) {
        let pid = child.id();
        let forget = move |resolver: &Self| {
            resolver.state.lock().process.take_if(|process| process.pid() == pid).is_some()
        };
        let again = |resolver: &Self| {
            let mut state = resolver.state.lock();
            if !state.clients.is_empty()
                && let Err(error) = resolver.start(&mut state)
            {
                tracing::error!(error = yare_errdefs::chain(&error), "containers resolve no names");
            }
        };
        companion::watch(NAME, child, Weak::clone(&self.myself), forget, again);
    }
}
