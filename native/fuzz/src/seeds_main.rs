//! Writes the seeds of every target to `corpus`: `cargo run -p drtp-fuzz`. A test holds the committed ones to these.

fn main() -> std::io::Result<()> {
    for (target, _) in drtp_fuzz::TARGETS {
        let folder = drtp_fuzz::corpus(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in drtp_fuzz::seeds::of(target) {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
