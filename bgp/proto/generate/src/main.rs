//! The messages of `bgp/proto/gobgp.proto` as Rust, into `b../src/gobgp/wire.rs`.

use std::path::Path;

const HEAD: &str = "//! The messages of `bgp/proto/gobgp.proto`; written by `bgp/proto/generate`, not by hand.\n\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder above")?;
    let files = protox::compile([proto.join("gobgp.proto")], [proto])?;
    let scratch = std::env::temp_dir().join(format!("edge-generate-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    prost_build::Config::new().out_dir(&scratch).compile_fds(files)?;
    let text = std::fs::read_to_string(scratch.join("gobgp.rs"))?;
    std::fs::write(proto.join("../src/gobgp/wire.rs"), HEAD.to_owned() + &text)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}
