"""Looking after what is stored: checks, scrubs, damage, disks that take no writes."""
