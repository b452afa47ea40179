//! The sandbox's child on its own, for the tests of this crate: `truing` has the same as a hidden sub-command.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let status = match &arguments[..] {
        [command, argument] if command == truing_reward::sandbox::CHILD_COMMAND => {
            truing_reward::sandbox::child_main(argument)
        }
        _ => 64,
    };
    std::process::exit(status);
}
