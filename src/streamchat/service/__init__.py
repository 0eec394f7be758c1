"""What an application holds: `StreamChat`, with the driver, hub and supervisor behind it."""
