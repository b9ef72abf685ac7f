"""The schema registry, by Confluent's HTTP API, which Apicurio, Karapace and Redpanda speak as well."""
