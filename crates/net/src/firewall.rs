//! A bridge's nftables tables: what they should be, and the socket that makes it so.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;

use crate::forward::{self, Dropping};
use crate::netlink::{Attributes, Refused, Socket, Writer};
use crate::nft;
use crate::ports::HostPort;
use crate::rules::{Element, Family, Table};

/// Enough for a batch that rebuilds a table with tens of thousands of elements.
const SEND_BUFFER: i32 = 4 << 20;

/// The tables, with what is published. Own state is the truth; the kernel is brought in line with it.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
    table: Table,
    /// The table of the IPv6 half.
    beside: Option<Table>,
    elements: BTreeMap<HostPort, Element>,
    /// The kernel was told all of it, by us.
    told: bool,
}

impl Firewall {
    /// Opens a socket in the namespace of the calling thread; changes nothing.
    pub(crate) fn open(table: Table, beside: Option<Table>) -> io::Result<Self> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        // Without the privilege a batch is limited to net.core.wmem_max, enough for thousands of ports.
        let _ = yare_sys::netlink::force_send_buffer(socket.raw(), SEND_BUFFER);
        Ok(Self { socket, table, beside, elements: BTreeMap::new(), told: false })
    }

    /// Our address in netlink.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The table's name.
    pub(crate) fn table(&self) -> &str {
        &self.table.name
    }

    /// Whether the kernel has tables of our name.
    pub(crate) fn exists(&mut self) -> Result<bool, Refused> {
        for table in std::iter::once(&self.table).chain(&self.beside) {
            let mut batch = self.socket.batch();
            nft::ask_table(&mut batch, table);
            match self.socket.request(batch) {
                Err(refused) if refused.errno == Errno::NOENT => return Ok(false),
                other => other?,
            }
        }
        Ok(true)
    }

    /// Deletes the table of family ip6 that a bridge without IPv6 had when it still had it.
    pub(crate) fn forget_half(&mut self) -> Result<(), Refused> {
        if self.beside.is_some() {
            return Ok(());
        }
        let half = Table { family: Family::V6, ..self.table.clone() };
        let mut batch = self.socket.batch();
        nft::ask_table(&mut batch, &half);
        if self.socket.request(batch).is_err() {
            // There is none, or the kernel holds none of that family.
            return Ok(());
        }
        commit(&mut self.socket, |batch| nft::delete_table(batch, &half))
    }

    /// Replaces the kernel's tables by ours in one transaction; no packet sees anything in between.
    pub(crate) fn rebuild(&mut self) -> Result<(), Refused> {
        let elements: Vec<_> = self.elements.values().copied().collect();
        let (table, beside) = (&self.table, &self.beside);
        commit(&mut self.socket, |batch| {
            nft::replace(batch, table, &elements);
            beside.iter().for_each(|beside| nft::replace(batch, beside, &elements));
        })?;
        self.told = true;
        Ok(())
    }

    /// Replaces the kernel's table unless it is our own work already.
    pub(crate) fn settle(&mut self) -> Result<(), Refused> {
        if self.told { Ok(()) } else { self.rebuild() }
    }

    /// Takes note of what is published without telling the kernel: the next rebuild does.
    pub(crate) fn remember(&mut self, elements: &[Element]) {
        self.told &= elements.is_empty();
        self.note(elements);
    }

    fn note(&mut self, elements: &[Element]) {
        self.elements.extend(elements.iter().map(|element| (element.from, *element)));
    }

    /// Publishes all of `elements` or none.
    pub(crate) fn publish(&mut self, elements: &[Element]) -> Result<(), Refused> {
        if elements.is_empty() {
            return Ok(());
        }
        self.note(elements);
        let name = &self.table.name;
        let Err(refused) = commit(&mut self.socket, |batch| nft::add(batch, name, elements)) else {
            return Ok(());
        };
        // Somebody emptied our table or left something in it.
        tracing::warn!(table = %name, error = %refused, "packet filter is not as it was left; rebuilding it");
        self.rebuild().inspect_err(|_| {
            elements.iter().for_each(|element| {
                self.elements.remove(&element.from);
            })
        })
    }

    /// Withdraws ports; those that are not published are ignored.
    pub(crate) fn withdraw(&mut self, ports: &[HostPort]) -> Result<(), Refused> {
        let gone: Vec<_> = ports.iter().filter_map(|port| self.elements.remove(port)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let name = &self.table.name;
        match commit(&mut self.socket, |batch| nft::remove(batch, name, &gone)) {
            Ok(()) => Ok(()),
            Err(_) => self.rebuild(),
        }
    }

    /// Whether the kernel's table has all our rules and exactly our elements.
    pub(crate) fn intact(&mut self) -> Result<bool, Refused> {
        if !self.exists()? {
            return Ok(false);
        }
        for table in std::iter::once(&self.table).chain(&self.beside) {
            let wanted: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
            let mut rules = 0;
            let mut batch = self.socket.batch();
            nft::ask_rules(&mut batch, table);
            self.socket.dump(batch, |_, _| rules += 1)?;
            if rules != wanted {
                return Ok(false);
            }
        }
        let kernel = self.kernel_elements()?;
        let ours =
            self.elements.values().map(|element| (kernel_key(element), nft::value(element.ip, element.port)));
        Ok(kernel == ours.collect())
    }

    /// Chains of others that drop what this bridge forwards.
    pub(crate) fn dropping(&mut self, bridge: &str) -> Result<Vec<Dropping>, Refused> {
        forward::dropping(&mut self.socket, &self.table.name, bridge, self.beside.is_some())
    }

    /// Deletes the tables.
    pub(crate) fn delete(&mut self) -> Result<(), Refused> {
        let (table, beside) = (&self.table, &self.beside);
        commit(&mut self.socket, |batch| {
            nft::delete_table(batch, table);
            beside.iter().for_each(|beside| nft::delete_table(batch, beside));
        })
    }

    fn kernel_elements(&mut self) -> Result<KernelElements, Refused> {
        let mut found = BTreeMap::new();
        for table in std::iter::once(&self.table).chain(&self.beside) {
            for map in table.maps {
                let mut batch = self.socket.batch();
                nft::ask_elements(&mut batch, table, *map);
                self.socket.dump(batch, |kind, payload| {
                    if kind == nft::ELEMENTS {
                        let elements = read_elements(payload).into_iter();
                        found.extend(elements.map(|(key, value)| ((table.family, key), value)));
                    }
                })?;
            }
        }
        Ok(found)
    }
}

/// Keys with their families, and values.
type KernelElements = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

fn kernel_key(element: &Element) -> (Family, Vec<u8>) {
    (Family::of(element.ip), nft::key(element.from))
}

/// Makes or replaces a table in the namespace of the calling thread that nobody changes afterwards.
pub(crate) fn install(table: &Table) -> io::Result<()> {
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    Ok(commit(&mut socket, |batch| nft::replace(batch, table, &[]))?)
}

fn commit(socket: &mut Socket, fill: impl FnOnce(&mut Writer)) -> Result<(), Refused> {
    let mut batch = socket.batch();
    nft::begin(&mut batch);
    fill(&mut batch);
    nft::end(&mut batch);
    socket.request(batch)
}

/// Keys and values in a message about elements.
fn read_elements(payload: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = attribute(payload.get(4..).unwrap_or_default(), nft::ELEMENT_LIST).unwrap_or_default();
    let data = |element, kind| attribute(attribute(element, kind)?, nft::DATA_VALUE).map(<[u8]>::to_vec);
    Attributes(list)
        .filter_map(|(_, element)| {
            Some((data(element, nft::ELEMENT_KEY)?, data(element, nft::ELEMENT_DATA)?))
        })
        .collect()
}

pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
