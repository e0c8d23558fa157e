"""How well and how fast heads converge, and what that changes in rankings."""
