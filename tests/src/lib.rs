//! Test harness: namespaces, processes, real MariaDB servers, traffic, lbd hosts, the lab.
#![deny(unsafe_code)] // allowed only in modules named `sys` (xtask tidy checks)

pub mod mariadb;
pub mod netns;
pub mod process;
mod sys;
pub mod wait;
