//! The XDP engine. The only folder that names aya.

pub mod encode;
pub mod image;
pub mod object;
