"""What nodes say to each other, as bytes: typed messages and frames of many blobs.

docs/protocol.md describes it for somebody who writes a node in another language.
"""
