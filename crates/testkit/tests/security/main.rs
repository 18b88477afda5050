//! Weaknesses that container engines have had, a test or more for each. The numbers are rows of a list of them
//! (for example 1: CVE-2019-5736, the engine's binary overwritten through `/proc/self/exe`; 2: CVE-2024-21626,
//! a descriptor of the host as working directory; 3 to 6: CVE-2018-15664 and others, copies led out of a container
//! or into its programs; 8 to 13: links in the place of `/proc`, `/dev/null` and mount
//! points; 14: CVE-2022-24769, inheritable capabilities; 15: CVE-2022-0492, cgroup agents; 16: CVE-2020-15257,
//! abstract sockets; 17: CVE-2021-41091, open folders; 33: numbers that wrap; 46: doors of the kernel). A canary
//! outside of every container shows whether anything got out.

#![expect(clippy::unwrap_used, reason = "tests may")]

#[path = "../crash/api.rs"]
#[expect(dead_code, reason = "the tests of crashes need more of it")]
mod api;
mod copies;
mod kernel;
mod privileges;
mod programs;
mod roots;
mod stage;
mod surroundings;
