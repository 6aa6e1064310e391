//! Makes the plugin protocol's messages and client of `proto/`, without `protoc`.

const PROTO: &str = "opes/plugin/v1/plugin.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/{PROTO}");
    let files = protox::compile([PROTO], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".opes.plugin.v1")
        .compile_fds(files)?;
    Ok(())
}
