"""The study's database: connections, leases on trials, what drivers agree on, sampling."""
