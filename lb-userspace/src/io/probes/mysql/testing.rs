//! What a scripted MySQL server says.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// `payload` with its header.
pub(crate) fn packet(seq: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_le_bytes();
    [&[length[0], length[1], length[2], seq], payload].concat()
}

/// A greeting of MySQL 8 with this default plugin. Flags: everything but TLS and compression,
/// CLIENT_DEPRECATE_EOF left out so that answers are easy to write.
pub(crate) fn hello(plugin: &str) -> Vec<u8> {
    hello_with(plugin, 0xf7df)
}

/// The same with these flags.
pub(crate) fn hello_with(plugin: &str, flags: u16) -> Vec<u8> {
    let mut payload = b"\x0a8.0.36\0\x07\0\0\0saltsalt\0".to_vec();
    payload.extend_from_slice(&flags.to_le_bytes());
    payload.extend_from_slice(&[45, 2, 0]);
    payload.extend_from_slice(&0x00ff_u16.to_le_bytes());
    payload.push(21);
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(b"saltsaltsalt\0");
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    packet(0, &payload)
}

/// An OK packet.
pub(crate) const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

/// One packet of the client: sequence number and payload. `None` when it has closed.
pub(crate) async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.ok()?;
    let length = usize::from(header[0]) | usize::from(header[1]) << 8;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((header[3], payload))
}
