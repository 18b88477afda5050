//! Devices by the Container Device Interface (CDI): vendors describe in files on the host what a container
//! needs to use a device, and a name such as `vendor.com/gpu=0` asks for it.
//!
//! [`Registry::read`] reads the folders of such files, and [`Registry::inject`] edits a runtime spec. What is
//! wrong with one file is told of and hides the devices of that file alone. A name that is asked for is only
//! ever compared with the names that the files have: it never becomes part of a path.
//!
//! The files are written by root and trusted as root is: they name programs that run on the host.

mod edits;
mod name;
mod registry;
mod spec;
mod yaml;

pub use name::{check_class, check_vendor, split_kind};
pub use registry::Registry;
