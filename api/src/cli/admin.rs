//! `daybook admin`.

use clap::Subcommand;
use commands::{About, CommandError, FirstTeam, Password};
use domain::{ClaimKind, Email, PersonName};

use super::{Failure, with_node};
use crate::node::{known_account, one_time_password, registrar};

#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Make an instance admin; prints their one-time password unless one is given
    Create {
        /// What they sign in with
        #[arg(long)]
        email: String,
        /// What they are called
        #[arg(long, default_value = "Admin")]
        name: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
}

impl Admin {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Create { email, name, password_stdin } = self;
        let usage = |field: &str| {
            let field = field.to_owned();
            move |invalid: domain::Invalid| Failure::Usage(format!("--{field} {invalid}"))
        };
        let address = Email::parse(&email).map_err(usage("email"))?;
        let name = PersonName::parse(&name).map_err(usage("name"))?;
        let (password, generated) = if password_stdin {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            let person = About { email: Some(&address), name: Some(&name) };
            let text = line.trim_end_matches(['\r', '\n']).to_owned();
            (Password::choose(text, &person).map_err(usage("password-stdin"))?, None)
        } else {
            let text = one_time_password()?;
            (Password::typed(text.clone()), Some(text))
        };
        with_node(async move |node| {
            let account = known_account(address, name, password, true, FirstTeam::Own);
            match node.commands.register(&registrar(), account).await {
                Ok(_) => {}
                Err(CommandError::Taken(ClaimKind::Email)) => {
                    return Err(Failure::No(format!("there is an account for {email} already")));
                }
                Err(error) => return Err(Failure::unreachable(error)),
            }
            // The password is shown before anything can fail: it is nowhere else.
            say!("admin    {email}");
            if let Some(text) = generated {
                say!("password {text}   (shown this once)");
            }
            node.show().await?;
            Ok(())
        })
        .await
    }
}
