"""Every request and every result, and the choices they are made of: one file a resource."""
