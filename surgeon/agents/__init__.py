"""The service as tools for agents: a server of the Model Context Protocol, built on the client.

``command`` is `surgeon mcp`. ``server`` puts the tools of ``reading``, ``submitting`` and
``following`` together, which speak to the service through ``surgeon.client`` alone; ``arguments``
and ``answers`` say what they take and give, and ``failures`` how errors are told. Everything but
``command`` needs the package `mcp`.
"""
