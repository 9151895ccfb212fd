//! Types shared by lbd's kernel object and its user space. Imports `core` only.
//!
//! * [`abi`] – every key and value that lies in a BPF map, with who writes it and in which order
//! * [`addr`] – IP addresses of both families, as they lie in maps
//! * [`maps`] – names and sizes of the maps and programs
//! * [`verdict`] – what the program did with a packet: counter index and metric label at once
//! * [`pool`] – the list of selectable real servers that the schedulers walk
//! * [`maglev`] – the consistent-hashing ring of `lb_algo mh`
//! * [`hash`], [`csum`] – arithmetic that both sides must do alike
#![no_std]
#![deny(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod csum;
pub mod hash;
pub mod maglev;
pub mod maps;
pub mod pool;
mod real;
pub mod verdict;
