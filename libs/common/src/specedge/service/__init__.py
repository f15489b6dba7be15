"""What every service process needs: tasks, settings, logs, metrics, health."""
