"""What came out: CSVs and figures from run folders. Never imports torch."""
