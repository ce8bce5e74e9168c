//! The broker's own commands, and access rights.

use anyhow::Result;

use crate::TestBroker;

/// A resource to which a user may have rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic(String),
    /// All topics whose names begin like this.
    Topics(String),
    /// A consumer group.
    Group(String),
    /// A transactional id.
    TransactionalId(String),
    /// The cluster, for creating topics and writing idempotently.
    Cluster,
}

/// An operation that a user may have a right to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Everything.
    All,
    /// Read records, or be a group's member.
    Read,
    /// Write records.
    Write,
    /// Create topics.
    Create,
    /// Learn that the resource exists. The rights to read and write imply it.
    Describe,
    /// Learn how the resource is configured.
    DescribeConfigs,
    /// Delete the resource.
    Delete,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::All => "All",
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
            Self::Delete => "Delete",
        }
    }
}

impl Resource {
    fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Topic(name) => vec!["--topic", name],
            Self::Topics(prefix) => vec!["--topic", prefix, "--resource-pattern-type", "prefixed"],
            Self::Group(name) => vec!["--group", name],
            Self::TransactionalId(name) => vec!["--transactional-id", name],
            Self::Cluster => vec!["--cluster"],
        }
    }
}

impl TestBroker {
    /// Gives a user rights. Takes a second or two.
    ///
    /// # Errors
    /// If the broker does not run or has no access rights.
    pub async fn allow(&self, user: &str, resource: &Resource, operations: &[Operation]) -> Result<()> {
        self.rights("--add", user, resource, operations).await
    }

    /// Removes rights that were given with [`allow`](Self::allow).
    ///
    /// # Errors
    /// If the broker does not run or has no access rights.
    pub async fn forbid(&self, user: &str, resource: &Resource, operations: &[Operation]) -> Result<()> {
        self.rights("--remove", user, resource, operations).await
    }

    async fn rights(&self, action: &str, user: &str, resource: &Resource, operations: &[Operation]) -> Result<()> {
        let principal = format!("User:{user}");
        let mut arguments = vec![action, "--force", "--allow-principal", &principal];
        arguments.extend(resource.arguments());
        for operation in operations {
            arguments.extend(["--operation", operation.name()]);
        }
        self.tool("org.apache.kafka.tools.AclCommand", &arguments).await.map(drop)
    }

    /// Runs one of Kafka's own commands as administrator, by its Java class, and returns what it printed. Takes a second or
    /// two. The argument `--bootstrap-server` is added, unless it is given: [`bootstrap`](Self::bootstrap) leads to the
    /// listener that clients use.
    ///
    /// `org.apache.kafka.tools.TopicCommand` creates, alters and deletes topics, `kafka.admin.ConfigCommand` alters
    /// configuration, `org.apache.kafka.tools.consumer.group.ConsumerGroupCommand` shows groups.
    ///
    /// # Errors
    /// If the command fails; the error has its output.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        const WHERE: &str = "--bootstrap-server";
        let admin = self.admin_bootstrap();
        let added: &[&str] = if arguments.contains(&WHERE) { &[] } else { &[WHERE, &admin] };
        let all = [added, arguments].concat();
        crate::java::run(self.class_path(), self.directory(), class, &all).await
    }
}
