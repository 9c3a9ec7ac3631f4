//! Prints the custom resource definitions as YAML; `cargo xtask crds` writes them to `crds/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (number, definition) in dynomite_api::crd::definitions().iter().enumerate() {
        if number > 0 {
            println!("---");
        }
        print!("{}", serde_yaml::to_string(definition)?);
    }
    Ok(())
}
