//! The key exchange of the opening handshake (RFC 6455 §4.2): by it a client knows that a WebSocket server answers, and
//! not a cache or some other HTTP server.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

/// Appended to the client's key before hashing (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The length of a key: 16 bytes in base64, with padding.
const KEY_CHARS: usize = 24;

/// Lenient about one thing only: the four bits that the 22nd character has too many. The RFC asks that the key
/// *decodes* to 16 bytes, and clients that make up a key as text leave those bits set.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 §4.2.2, step 5.4).
///
/// The key is taken as it is: check it with [`is_valid_key`] first.
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID.as_bytes()).finalize();
    STANDARD.encode(digest)
}

/// Whether a `Sec-WebSocket-Key` is the base64 of exactly 16 bytes (RFC 6455 §4.2.1, item 5). Surrounding blanks are
/// not part of a header's value and make it invalid.
pub fn is_valid_key(key: &str) -> bool {
    // Room for what 24 characters can hold at most; decoding into it allocates nothing.
    let mut nonce = [0; KEY_CHARS / 4 * 3];
    key.len() == KEY_CHARS && KEY_BASE64.decode_slice(key, &mut nonce) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_example_of_the_rfc() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        assert!(is_valid_key(key));
        assert_eq!(accept_key(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for bytes in 0..64 {
            let key = STANDARD.encode(vec![0xA5; bytes]);
            assert_eq!(is_valid_key(&key), bytes == 16, "{bytes} bytes");
        }
    }

    #[test]
    fn a_key_that_is_not_base64_is_refused() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ===",
            " dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ== ",
            "dGhlIHNhbXBsZSBub25j!Q==",
            "dGhlIHNhbXBsZSBub25j_Q==",
            "dGhlIHNhbXBsZSBub2=jZQ==",
            "dGhlIHNhbXBsZSBub25jé==",
            "========================",
        ] {
            assert!(!is_valid_key(key), "{key:?}");
        }
    }

    #[test]
    fn spare_bits_of_a_key_are_ignored() {
        assert!(is_valid_key("dGhlIHNhbXBsZSBub25jZR=="));
    }
}
