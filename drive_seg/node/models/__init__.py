"""The model that runs, another in its place while running, and a smaller input under overload."""
