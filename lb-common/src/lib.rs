//! Types shared by lbd's kernel object and its user space. Imports `core` only.
#![no_std]
