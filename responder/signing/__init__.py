"""Everything that touches a private key: signers, delegation, the presigner. Never imported by the edge."""
