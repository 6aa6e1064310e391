//! Makes the plugin protocol's messages and server, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (proto, folder) = ("opes/plugin/v1/plugin.proto", "../../../callout-server/proto");
    println!("cargo:rerun-if-changed={folder}/{proto}");
    let files = protox::compile([proto], [folder])?;
    tonic_prost_build::configure().build_client(false).compile_fds(files)?;
    Ok(())
}
