//! CRC32C (RFC 4960 appendix B: Castagnoli's polynomial, reflected).

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// The sum over the parts, one after the other.
pub fn crc32c(parts: [&[u8]; 3]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(u32::MAX, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_sums() {
        // RFC 3720 appendix B.4, and the check value of the polynomial's catalogue.
        for (bytes, sum) in
            [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (b"123456789", 0xe306_9283), (b"", 0)]
        {
            let (a, b) = bytes.split_at(bytes.len() / 3);
            assert_eq!(super::crc32c([a, b, b""]), sum);
        }
    }
}
