"""What runs when: jobs, schedules and sensors. What they run lives in ``assets``."""
