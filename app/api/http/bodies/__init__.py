"""Bodies of requests: limited, unpacked and checked before any operation reads them."""
