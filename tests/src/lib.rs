//! Test harness: namespaces, processes, real MariaDB servers, traffic, lbd hosts, the lab.
#![deny(unsafe_code)] // allowed only in modules named `sys` (xtask tidy checks)

pub mod bpf_stats;
pub mod checks;
pub mod config_speed;
pub mod failover;
pub mod foreign;
pub mod fuzz;
pub mod host;
pub mod interop;
pub mod ipvs;
pub mod jail;
pub mod lab;
pub mod lab_config;
pub mod lease_map;
pub mod links;
pub mod looks;
pub mod mariadb;
pub mod netns;
pub mod openmetrics;
pub mod packet;
pub mod process;
pub mod report;
pub mod running;
pub mod sampler;
pub mod script;
pub mod sim;
pub mod single;
pub mod sys;
pub mod traffic;
pub mod tutorial;
pub mod verdict;
pub mod vip_watch;
pub mod vrrp;
pub mod wait;
pub mod witness;
